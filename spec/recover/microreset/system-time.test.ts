import { describe, expect, it } from 'vitest';
import { type Clock, judgeClocks } from '../../../src/recover/microreset/system-time.js';

/** Of a box with 8 CPUs, nanoseconds of the host and ticks of a counter of 2.6 GHz. */
const FACTORS = [
  3_316_310_268, 3_316_310_268, 3_307_652_634, 3_342_736_119, 3_316_314_805, 3_316_279_869, 3_306_505_474,
];
const calibrated = (): Clock[] =>
  FACTORS.map((factor, cpu) => ({
    cpu,
    shift: -1,
    factor,
    counter: 57_699_000_000n + BigInt(10_000 * cpu),
    time: 22_050_234_968n + BigInt(4000 * cpu),
    master: 22_050_234_968n,
  }));
/** Noted a little later. */
const PLATFORM = 22_051_000_000n;
const judge = (clocks: readonly Clock[]) => judgeClocks(clocks, PLATFORM);

describe('clocks of CPUs', () => {
  it('agree when they were calibrated', () => {
    expect(judge(calibrated())).toMatchObject({ misscaled: [], off: [] });
  });

  it('agree when some rates are written as a little less than a power of two, and others as a little more', () => {
    const clocks = calibrated().map((clock, n) =>
      n % 2 === 0 ? { ...clock, shift: 0, factor: clock.factor / 2 } : clock,
    );
    expect(judge(clocks)).toMatchObject({ misscaled: [], off: [] });
  });

  it('are right where the majority is: an address was stored over two scales', () => {
    const clocks = calibrated();
    for (const cpu of [0, 2]) clocks[cpu] = { ...clocks[cpu]!, shift: 0x4023_1a51, factor: 0xffff_82d0 };
    expect(judge(clocks)).toMatchObject({ misscaled: [0, 2], shift: -1, off: [] });
    expect(judge(clocks)!.factor).toBeGreaterThan(3_300_000_000);
  });

  it('are off when one of them is hours away, forward or back', () => {
    for (const hours of [5n, -5n]) {
      const clocks = calibrated();
      const byNs = hours * 3_600_000_000_000n;
      clocks[3] = { ...clocks[3]!, time: clocks[3]!.time + byNs };
      const { off, now } = judge(clocks)!;
      expect(off.map(({ cpu }) => cpu)).toEqual([3]);
      expect(now / 1_000_000n).toBe(22_050n);
    }
  });

  it('are off where most of them are, by what they were calibrated against', () => {
    for (const byNs of [600_000_000_000n, -600_000_000_000n]) {
      const clocks = calibrated().map((clock) => ({ ...clock, time: clock.time + byNs * BigInt(clock.cpu + 1) }));
      const { off, now } = judge(clocks)!;
      expect(off.map(({ cpu }) => cpu)).toEqual([0, 1, 2, 3, 4, 5, 6]);
      expect(now).toBeGreaterThanOrEqual(22_050_000_000n);
      expect(now).toBeLessThanOrEqual(PLATFORM);
    }
  });

  it('cannot be judged where there are two, or where most are nonsense', () => {
    expect(judge(calibrated().slice(0, 2))).toBeUndefined();
    expect(judge(calibrated().map((clock) => ({ ...clock, shift: 1000 })))).toBeUndefined();
  });
});
