import { describe, expect, it } from 'vitest';
import { OutsideWatch } from '../../src/campaign/outside.js';
import type { Hold, OutsideHost, Ping } from '../../src/testbed/outside-host.js';
import type { VmVerdict } from '../../src/workload/verdict.js';

const well = (name: string): VmVerdict => ({ name, kind: 'pv', alive: true, intact: true, progress: 5 });
const VMS = [well('app1'), well('app2')];
const PERIOD_MS = 10;

/** A sender that has pinged app2 for ten seconds until now; `isLost` says which pings got no answer. */
function senderOf(isLost: (agoMs: number) => boolean, holds: readonly Hold[] = []): OutsideHost & { acts: string[] } {
  const now = performance.now();
  const pings = Array.from({ length: 1000 }, (_, n): Ping => {
    const sentAtMs = now - (1000 - n) * PERIOD_MS;
    return { to: 'app2', n, sentAtMs, ...(isLost(now - sentAtMs) ? {} : { answeredAtMs: sentAtMs + 5 }) };
  });
  const acts: string[] = [];
  return {
    neighbours: ['app2'],
    pings: () => pings,
    holds: () => holds,
    pause: () => acts.push('pause'),
    resume: () => acts.push('resume'),
    acts,
  } as unknown as OutsideHost & { acts: string[] };
}

describe('the sender outside', () => {
  it('changes nothing where there is none', () => {
    const watch = new OutsideWatch(undefined);
    watch.held(true);
    expect(watch.judge(VMS, [])).toEqual({ vms: VMS, decided: true, isWell: true });
  });

  it('holds back while the machine is held', () => {
    const sender = senderOf(() => false);
    const watch = new OutsideWatch(sender);
    watch.held(true);
    watch.held(false);
    expect(sender.acts).toEqual(['pause', 'resume']);
  });

  it('agrees when all pings are answered', () => {
    expect(new OutsideWatch(senderOf(() => false)).judge(VMS, [])).toMatchObject({ decided: true, isWell: true });
  });

  it('finds the VM affected that lost more than a tenth of a second’s pings, and no other', () => {
    const verdict = new OutsideWatch(senderOf((ago) => ago > 5000 && ago < 5200)).judge(VMS, []);
    expect(verdict).toMatchObject({ decided: true, isWell: false });
    expect(verdict.vms[0]).toEqual(VMS[0]);
    expect(verdict.vms[1]).toMatchObject({ alive: true, intact: false });
    expect(verdict.vms[1]!.reason).toMatch(/^pings from outside were lost: \d+ of \d+ in the worst second$/);
  });

  it('leaves the outage out of it, and tells how long it was', () => {
    const now = performance.now();
    const failures = [{ startMs: now - 5200, endMs: now - 5000 }];
    const verdict = new OutsideWatch(senderOf((ago) => ago >= 5000 && ago <= 5200)).judge(VMS, failures);
    expect(verdict).toMatchObject({ decided: true, isWell: true });
    expect(verdict.outageMs).toBeGreaterThan(190);
    expect(verdict.outageMs).toBeLessThan(240);
  });

  it('waits for answers that may still come', () => {
    const resumedMs = performance.now() - 1500;
    const sender = senderOf((ago) => ago < 1500);
    const verdict = new OutsideWatch(sender).judge(VMS, [{ startMs: resumedMs, endMs: resumedMs }]);
    expect(verdict).toMatchObject({ decided: false, isWell: false });
    expect(verdict.vms[1]).toMatchObject({ reason: 'pings from outside got no answer yet' });
  });
});
