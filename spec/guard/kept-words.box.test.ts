/** Pointers that nothing else tells are overwritten on a real box, as a runaway trap frame does it: its VMs live. */
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { listDomains } from '../../src/xen/domains.js';
import { freezeInXen, lostVms, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;
/** A selector, and an address that was shifted by a byte. */
const SELECTOR = 0xe008n;
const SHIFTED = 0xff83_0238_4469_c000n;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox((...given) => {
  [box, target, guard] = given;
});

function overwrite(address: bigint, value: bigint): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  box.machine.ram.write(target.xen.memory.physicalAddress(address), bytes);
}

describe('the VMs of a hypervisor', () => {
  it('live when a CPU forgot its scheduling data and a guest its shared page', async () => {
    const before = sampleOf(box);
    const [cpu] = await freezeInXen(box, target);
    const xen = target.at(await box.machine.capture());
    const guest = listDomains(xen).find(({ id }) => id === 1)!.vcpus[0]!;
    overwrite(xen.perCpu('sched_res', cpu!), SHIFTED);
    overwrite(guest.object.at('vcpu_info'), SELECTOR);
    await box.machine.writeRegisters(cpu!, { rip: 0n });
    const recovery = await guard.nextRecovery(DETECTION_MS);
    expect(recovery).toMatchObject({ result: 'resumed' });
    expect(recovery!.plan.steps.flatMap(({ findings }) => findings)).toEqual(
      expect.arrayContaining([`CPU ${cpu}: sched_res was damaged`, 'd1v0: vcpu_info was damaged']),
    );
    while ((await guard.nextRecovery(1000)) !== undefined);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
