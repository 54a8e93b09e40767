/** Failures that follow each other, come together, or hit where no other interrupt can come: on a real box, and its VMs live. */
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { failInXen, freezeInXen, lostVms, sampleOf, useGuardedBox } from '../support/live-box.js';

const IN_A_ROW = 10;
const DETECTION_MS = 20_000;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox((...given) => {
  [box, target, guard] = given;
});

/** Recoveries until the box has run for some time without a failure. */
async function recoverAll(): Promise<(string | undefined)[]> {
  const results: (string | undefined)[] = [];
  for (;;) {
    const recovery = await guard.nextRecovery(results.length === 0 ? DETECTION_MS : 1000);
    if (recovery === undefined) return results;
    results.push(recovery.result);
  }
}

describe('the VMs of a hypervisor', () => {
  it('live when it fails ten times in a row', async () => {
    const before = sampleOf(box);
    for (let n = 0; n < IN_A_ROW; n++) {
      await failInXen(box, target);
      expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed' });
      await guard.nextRecovery(200 + 50 * n);
      await box.machine.freeze();
    }
    await recoverAll();
    expect(guard.failures).toBeGreaterThanOrEqual(IN_A_ROW);
    // How often a recovery loses an AppVM is for campaigns to say; ten of them may lose one.
    const lost = await lostVms(box, before);
    expect(lost.length).toBeLessThanOrEqual(1);
    expect(lost).not.toContain('dom0');
  });

  it('live when it fails on several CPUs at once', async () => {
    const before = sampleOf(box);
    const cpus = await freezeInXen(box, target, 2);
    for (const cpu of cpus) await box.machine.writeRegisters(cpu, { rip: 0n });
    expect(new Set(await recoverAll())).toEqual(new Set(['resumed']));
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when it fails right after a recovery, before anything else was done', async () => {
    const before = sampleOf(box);
    await failInXen(box, target);
    await guard.nextRecovery(DETECTION_MS);
    const stop = await box.machine.freeze();
    expect(stop.kind).toBe('paused');
    await failInXen(box, target);
    expect(new Set(await recoverAll())).toEqual(new Set(['resumed']));
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when it fails while it handles a non-maskable interrupt', async () => {
    const before = sampleOf(box);
    const handler = target.xen.symbol('do_nmi');
    await box.machine.setBreakpoints([handler]);
    await box.machine.resume();
    await box.machine.qmp.execute('inject-nmi');
    const stop = await box.machine.waitForStop(DETECTION_MS);
    if (stop.kind !== 'breakpoint') throw new Error(stop.kind);
    expect(stop.address).toBe(handler);
    await box.machine.clearBreakpoints([handler]);
    await box.machine.writeRegisters(stop.cpu, { rip: 0n });
    expect(new Set(await recoverAll())).toEqual(new Set(['resumed']));
    expect(await lostVms(box, before)).toEqual([]);
  });
});
