import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Ping } from '../../src/testbed/outside-host.js';
import { judgeNetBench, type NetBenchMarks } from '../../src/workload/netbench.js';

const PERIOD_MS = 10;

/** Pings every 10 ms, answered after 5 ms each unless `lost` says otherwise. */
const series = (startMs: number, endMs: number, lost: (atMs: number) => boolean = () => false): Ping[] => {
  const pings: Ping[] = [];
  for (let atMs = startMs; atMs < endMs; atMs += PERIOD_MS)
    pings.push({
      to: 'app1',
      n: pings.length,
      sentAtMs: atMs,
      ...(lost(atMs) ? {} : { answeredAtMs: atMs + 5 }),
    });
  return pings;
};

const marks = (nowMs: number, more: Partial<NetBenchMarks> = {}): NetBenchMarks => ({
  failures: [],
  holds: [],
  nowMs,
  ...more,
});

describe('the verdict of NetBench', () => {
  it('is good when all is answered', () => {
    expect(judgeNetBench(series(0, 5000), marks(5000))).toMatchObject({ ok: true, decided: true, lossShare: 0 });
  });

  it('is open until a whole window has gone by', () => {
    expect(judgeNetBench(series(0, 900), marks(900))).toMatchObject({ ok: false, decided: false });
    expect(judgeNetBench([], marks(900))).toEqual({ ok: false, decided: false, counted: 0, pending: 0, lossShare: 0 });
  });

  it('lets a tenth of a window be lost, and no more', () => {
    const lossy = (share: number) => (atMs: number) => atMs >= 1000 && atMs < 1000 + share * 1000;
    expect(judgeNetBench(series(0, 8000, lossy(0.1)), marks(8000)).ok).toBe(true);
    const verdict = judgeNetBench(series(0, 8000, lossy(0.11)), marks(8000));
    expect(verdict).toMatchObject({ ok: false, decided: true, worstWindow: { sent: 100, lost: 11 } });
  });

  it('takes a late answer for an answer, and one after the deadline for none', () => {
    const late = (ms: number): Ping[] => series(0, 8000).map((ping) => ({ ...ping, answeredAtMs: ping.sentAtMs + ms }));
    expect(judgeNetBench(late(2500), marks(20_000)).ok).toBe(true);
    expect(judgeNetBench(late(3500), marks(20_000)).ok).toBe(false);
  });

  it('waits for answers that may still come before it condemns', () => {
    const dead = series(0, 4000, (atMs) => atMs >= 2000);
    const failures = [{ startMs: 1990, endMs: 2000 }];
    expect(judgeNetBench(dead, marks(4000, { failures }))).toMatchObject({ decided: false, pending: 200 });
    expect(judgeNetBench(dead, marks(5200, { failures }))).toMatchObject({ decided: true, ok: false });
  });

  it('does not wait for the last answers when they cannot matter', () => {
    const inFlight = series(0, 4000, (atMs) => atMs >= 3950);
    expect(judgeNetBench(inFlight, marks(4000))).toMatchObject({ decided: true, ok: true, pending: 5 });
    const slow = series(0, 4500, (atMs) => atMs >= 4100);
    const failures = [{ startMs: 2990, endMs: 3000 }];
    expect(judgeNetBench(slow, marks(4500, { failures }))).toMatchObject({ decided: true, ok: true, pending: 40 });
  });

  const failure = { startMs: 3000, endMs: 3400 };

  it('leaves out the time from a failure to the resumption, and what was on its way', () => {
    const pings = series(0, 8000, (atMs) => atMs >= 2900 && atMs < 3400);
    expect(judgeNetBench(pings, marks(8000)).ok).toBe(false);
    expect(judgeNetBench(pings, marks(8000, { failures: [failure] }))).toMatchObject({ ok: true, lossShare: 0 });
  });

  it('is open after a resumption until a whole window has gone by', () => {
    const failures = [failure];
    expect(judgeNetBench(series(0, 4300), marks(4300, { failures })).decided).toBe(false);
    expect(judgeNetBench(series(0, 4500), marks(4500, { failures })).ok).toBe(true);
    expect(judgeNetBench(series(0, 9000), marks(9000, { failures: [{ startMs: 3000 }] })).decided).toBe(false);
  });

  it('sees a VM that does not answer after the resumption', () => {
    const pings = series(0, 9000, (atMs) => atMs >= 3000);
    const verdict = judgeNetBench(pings, marks(9000, { failures: [failure] }));
    expect(verdict).toMatchObject({ ok: false, decided: true });
    expect(verdict.outageMs).toBeUndefined();
  });

  it('reports the outage that the sender saw', () => {
    const pings = series(0, 8000, (atMs) => atMs >= 3000 && atMs < 3400);
    expect(judgeNetBench(pings, marks(8000, { failures: [failure] })).outageMs).toBe(3405 - 2995);
  });

  it('does not count the time in which the sender held back as outage', () => {
    const holds = [{ startMs: 2000, endMs: 3000 }];
    const pings = series(0, 8000, (atMs) => atMs >= 3000 && atMs < 3400).filter(
      ({ sentAtMs }) => sentAtMs < 2000 || sentAtMs >= 3000,
    );
    expect(judgeNetBench(pings, marks(8000, { failures: [failure], holds }))).toMatchObject({
      ok: true,
      outageMs: 410,
    });
  });

  it('lets a window go on over a hold', () => {
    const holds = [{ startMs: 1500, endMs: 60_000 }];
    const pings = [...series(0, 1500), ...series(60_000, 60_300, () => true)];
    // Not whole before the hold, and 30 of its 100 pings are lost after it.
    expect(judgeNetBench(pings, marks(64_000, { holds }))).toMatchObject({ ok: false, decided: true });
  });

  it('excuses no ping for a hold that still lasts', () => {
    const pings = series(0, 4000, (atMs) => atMs >= 3800);
    const holds = [{ startMs: 4000 }];
    expect(judgeNetBench(pings, marks(4100, { holds })).pending).toBe(20);
    expect(judgeNetBench(pings, marks(8000, { holds }))).toMatchObject({ ok: false, decided: true, pending: 0 });
    expect(judgeNetBench(pings, marks(8000, { holds: [{ startMs: 4000, endMs: 4100 }] })).ok).toBe(true);
  });

  it('does not condemn a VM for one ping of a sender that hardly sends', () => {
    const slow = [0, 400, 800, 1200, 1600].map((sentAtMs, n): Ping => ({ to: 'app1', n, sentAtMs }));
    expect(judgeNetBench(slow, marks(20_000))).toMatchObject({ ok: false, decided: false });
  });
});

describe('whatever happens', () => {
  const interval = fc
    .tuple(fc.integer({ min: 0, max: 6000 }), fc.integer({ min: 0, max: 900 }))
    .map(([startMs, lasts]) => ({ startMs, endMs: startMs + lasts }));
  const someMarks = fc.record({
    failures: fc.array(interval, { maxLength: 2 }),
    holds: fc.array(interval, { maxLength: 4 }),
    nowMs: fc.integer({ min: 0, max: 15_000 }),
  });
  const losses = fc.array(fc.integer({ min: 0, max: 799 }), { maxLength: 200 });
  const withLost = (lost: readonly number[], nowMs: number): Ping[] => {
    const missing = new Set(lost);
    return series(0, Math.min(8000, nowMs), (atMs) => missing.has(atMs / PERIOD_MS));
  };

  it('a VM that answers everything is never condemned', () => {
    fc.assert(
      fc.property(someMarks, (at) => {
        const verdict = judgeNetBench(withLost([], at.nowMs), at);
        expect(verdict.decided).toBe(verdict.ok);
        expect(verdict.lossShare).toBe(0);
      }),
    );
  });

  it('one more lost ping makes no verdict better', () => {
    fc.assert(
      fc.property(someMarks, losses, fc.integer({ min: 0, max: 799 }), (at, lost, more) => {
        const before = judgeNetBench(withLost(lost, at.nowMs), at);
        const after = judgeNetBench(withLost([...lost, more], at.nowMs), at);
        if (after.ok) expect(before.ok).toBe(true);
        if (before.decided && !before.ok) expect(after).toMatchObject({ decided: true, ok: false });
      }),
    );
  });

  it('a VM that is condemned stays so', () => {
    const run = fc
      .tuple(fc.integer({ min: 0, max: 700 }), fc.integer({ min: 0, max: 300 }))
      .map(([from, length]) => Array.from({ length }, (_, i) => from + i));
    fc.assert(
      fc.property(someMarks, run, fc.integer({ min: 0, max: 5000 }), (at, lost, later) => {
        const pings = withLost(lost, at.nowMs);
        const first = judgeNetBench(pings, at);
        if (!first.decided || first.ok) return;
        expect(judgeNetBench(pings, { ...at, nowMs: at.nowMs + later })).toMatchObject({ decided: true, ok: false });
      }),
    );
  });

  it('the verdict does not depend on when the clock began', () => {
    fc.assert(
      fc.property(someMarks, losses, fc.integer({ min: 0, max: 1_000_000 }), (at, lost, shift) => {
        const pings = withLost(lost, at.nowMs);
        const move = ({ startMs, endMs }: { startMs: number; endMs: number }) => ({
          startMs: startMs + shift,
          endMs: endMs + shift,
        });
        const moved = judgeNetBench(
          pings.map((ping) => ({
            ...ping,
            sentAtMs: ping.sentAtMs + shift,
            ...(ping.answeredAtMs === undefined ? {} : { answeredAtMs: ping.answeredAtMs + shift }),
          })),
          { failures: at.failures.map(move), holds: at.holds.map(move), nowMs: at.nowMs + shift },
        );
        const { ok, decided, lossShare, outageMs } = judgeNetBench(pings, at);
        expect(moved).toMatchObject({ ok, decided, lossShare });
        expect(moved.outageMs).toBe(outageMs);
      }),
    );
  });
});
