/** Damaged code of Xen's is repaired whatever the CPUs of a real box do, and its VMs live. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { type CpuState, readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { lostVms, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;
const TRIES = 1000;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox((...given) => {
  [box, target, guard] = given;
});

/** Runs the frozen box until the first CPU is in an HVM guest and another one in Xen, which is given. */
async function findMoment(): Promise<CpuState> {
  for (let n = 0; n < TRIES; n++) {
    const xen = target.at(await box.machine.capture());
    const [first, ...others] = readSituation(xen, target.facts, listDomains(xen)).cpus;
    const inXen = others.find(({ where, registers }) => where === 'xen' && xen.profile.isText(registers.rip));
    if (first!.where === 'guest' && first!.current.domain.kind === 'hvm' && inXen !== undefined) return inXen;
    await box.machine.resume();
    await sleep(3 + (n % 7));
    await box.machine.freeze();
  }
  throw new Error('no such moment was found');
}

describe('damaged code', () => {
  it('is seen and repaired though nobody executes it', async () => {
    const before = sampleOf(box);
    const at = target.xen.memory.physicalAddress(target.xen.symbol('machine_restart'));
    const right = await box.machine.readPhysicalStub(at, 1);
    await box.machine.writePhysicalStub(at, Uint8Array.of(right[0]! ^ 1));
    const failure = { kind: 'damaged-text', at: 'machine_restart' };
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed', failure });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    await box.machine.freeze();
    expect(await box.machine.readPhysicalStub(at, 1)).toEqual(right);
    await guard.nextRecovery(100);
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('is repaired while the first CPU runs an HVM guest, which does not map it', async () => {
    const before = sampleOf(box);
    const { cpu } = await findMoment();
    const at = target.xen.memory.physicalAddress(target.xen.symbol('machine_restart'));
    const right = await box.machine.readPhysicalStub(at, 1);
    await box.machine.writePhysicalStub(at, Uint8Array.of(right[0]! ^ 1));
    await box.machine.writeRegisters(cpu, { rip: 0n });
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed' });
    await box.machine.freeze();
    expect(await box.machine.readPhysicalStub(at, 1)).toEqual(right);
    await guard.nextRecovery(100);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
