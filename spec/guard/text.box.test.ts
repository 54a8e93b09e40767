/** Damaged code of Xen's is repaired whatever the CPUs of a real box do, and its VMs live. */
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import type { CpuState } from '../../src/xen/cpus.js';
import { failInXen, inXen, lostVms, type Moment, pin, runUntil, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox((...given) => {
  [box, target, guard] = given;
});

/** A CPU in Xen while the first one is in an HVM guest. */
function find(moment: Moment): CpuState | undefined {
  const [first] = moment.cpus;
  return first!.where === 'guest' && first!.current.domain.kind === 'hvm' ? inXen(moment)[0] : undefined;
}

/** Changes a bit of a function that nobody executes. @returns where it is, and the byte that belongs there */
async function damage() {
  const at = target.xen.memory.physicalAddress(target.xen.symbol('machine_restart'));
  const right = await box.machine.readPhysicalStub(at, 1);
  await box.machine.writePhysicalStub(at, Uint8Array.of(right[0]! ^ 1));
  return { at, right };
}

describe('damaged code', () => {
  it('is seen and repaired though nobody executes it', async () => {
    const before = sampleOf(box);
    const { at, right } = await damage();
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
    await pin(box, { app2: 0 });
    const { cpu } = await runUntil(box, target, find);
    const { at, right } = await damage();
    await box.machine.writeRegisters(cpu, { rip: 0n });
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed' });
    await box.machine.freeze();
    expect(await box.machine.readPhysicalStub(at, 1)).toEqual(right);
    await guard.nextRecovery(100);
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('is looked for once more where a failure came while nobody watched', async () => {
    await failInXen(box, target);
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed' });
    await box.machine.freeze();
    await failInXen(box, target);
    await damage();
    await box.machine.resume();
    expect(await box.machine.waitForStop(DETECTION_MS)).toMatchObject({ kind: 'breakpoint' });
    const recovery = await guard.nextRecovery(DETECTION_MS);
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'fatal-trap' } });
    // Who lives after two failures in a row is asked elsewhere (second-failures.box.test.ts).
    expect(recovery!.plan.edits.some(({ kind }) => kind === 'text')).toBe(true);
  });
});
