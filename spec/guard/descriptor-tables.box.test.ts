/** Bits of the tables by which a CPU finds its handlers and stacks, turned in a real box. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { readSituation } from '../../src/xen/cpus.js';
import { tableDefects } from '../../src/xen/descriptors.js';
import { listDomains } from '../../src/xen/domains.js';
import type { Xen } from '../../src/xen/xen.js';
import { lostVms, sampleOf, useFreshBox } from '../support/live-box.js';

const GATE = 16n;
const PAGE_FAULT = 14n;

let box: Box;
let target: Target;
useFreshBox((...fresh) => {
  [box, target] = fresh;
});

const gate = (xen: Xen, cpu: number, vector: bigint): bigint =>
  xen.memory.u64(xen.symbol('idt_tables') + BigInt(8 * cpu)) + GATE * vector;

describe('descriptor tables of a real box', () => {
  it('are what they must be, whatever its CPUs do', async () => {
    for (let look = 0; look < 8; look++) {
      const xen = target.at(await box.machine.capture());
      expect(tableDefects(xen, readSituation(xen, target.facts, listDomains(xen)).cpus)).toEqual([]);
      await box.machine.resume();
      await sleep(50);
      await box.machine.freeze();
    }
  });

  it.each([
    ['the gate of page faults', (xen: Xen) => [gate(xen, 1, PAGE_FAULT) + 5n, 7] as const],
    ['the primary stack', (xen: Xen) => [xen.perCpu('tss_page', 2) + 64n + 4n + 5n, 6] as const],
    ['the code segment', (xen: Xen) => [xen.memory.u64(xen.perCpu('gdt', 3)) + 8n + 5n, 7] as const],
  ])('are repaired, and every VM lives, when %s lost a bit', async (_, place) => {
    const guard = await Guard.attach(target, {});
    await guard.warm;
    await box.machine.freeze();
    const before = sampleOf(box);
    const xen = target.at(await box.machine.capture());
    const [address, bit] = place(xen);
    const physical = xen.memory.physicalAddress(address);
    box.machine.ram.write(physical, Uint8Array.of(xen.memory.u8(address) ^ (1 << bit)));
    await box.machine.resume();
    const recovery = await guard.nextRecovery(30_000);
    expect(recovery).toMatchObject({ result: 'resumed', plan: { problems: [] } });
    const step = recovery!.plan.steps.find(({ name }) => name === 'descriptor-tables');
    expect(step!.findings).toHaveLength(1);
    expect(await lostVms(box, before)).toEqual([]);
    expect(guard.failures).toBe(1);
    guard.stop();
  });
});
