/** A hypervisor that goes on and does not do its work is seen, and brought back: on a real box, and its VMs live. */
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { lostVms, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox((...given) => {
  [box, target, guard] = given;
});

/** Puts other code over the beginning of a function of Xen's. */
function change(name: string, code: readonly number[]): Promise<void> {
  const { memory } = target.xen;
  return box.machine.writePhysicalStub(memory.physicalAddress(target.xen.symbol(name)), Uint8Array.from(code));
}

describe('the VMs of a hypervisor', () => {
  it('live when wake-ups were lost and CPUs slept', async () => {
    const before = sampleOf(box);
    // ret
    await change('csched2_unit_wake', [0xc3]);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    const failure = { kind: 'hang', summary: expect.stringContaining('a vCPU that could run') as string };
    expect(recovery).toMatchObject({ result: 'resumed', failure });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when CPUs did nothing but softirqs that raise themselves', async () => {
    const before = sampleOf(box);
    // mov $1, %al; ret
    await change('rcu_pending', [0xb0, 1, 0xc3]);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('are let be while nothing fails', async () => {
    const before = sampleOf(box);
    expect(await guard.nextRecovery(10_000)).toBeUndefined();
    expect(guard.failures).toBe(0);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
