import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clopperPearson, incompleteBeta, quantile, summarize } from '../../src/common/statistics.js';

describe('clopperPearson', () => {
  // Values as R's binom.test and published tables give them.
  it.each([
    [0, 10, 0, 0.3085],
    [1, 10, 0.0025, 0.445],
    [5, 10, 0.1871, 0.8129],
    [10, 10, 0.6915, 1],
    [48, 50, 0.8629, 0.9951],
    [50, 50, 0.9289, 1],
    [1, 1, 0.025, 1],
    [986, 1000, 0.9766, 0.9923],
  ])('gives %i of %i the interval [%f, %f]', (successes, trials, low, high) => {
    const interval = clopperPearson(successes, trials);
    expect(interval.low).toBeCloseTo(low, 4);
    expect(interval.high).toBeCloseTo(high, 4);
    expect(interval.share).toBe(successes / trials);
  });

  it('has closed forms where nothing or everything succeeded', () => {
    expect(clopperPearson(0, 37).high).toBeCloseTo(1 - 0.025 ** (1 / 37), 12);
    expect(clopperPearson(37, 37).low).toBeCloseTo(0.025 ** (1 / 37), 12);
  });

  it('leaves exactly half of the error on each side, for any proportion', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2000 }), fc.double({ min: 0, max: 1, noNaN: true }), (trials, share) => {
        const successes = Math.round(trials * share);
        const { low, high } = clopperPearson(successes, trials);
        if (successes > 0) expect(upperTail(successes, trials, low)).toBeCloseTo(0.025, 6);
        if (successes < trials) expect(1 - upperTail(successes + 1, trials, high)).toBeCloseTo(0.025, 6);
        expect(low).toBeLessThanOrEqual(successes / trials);
        expect(high).toBeGreaterThanOrEqual(successes / trials);
      }),
      { numRuns: 100 },
    );
  });

  it('mirrors: failures have the mirrored interval', () => {
    const some = clopperPearson(13, 40);
    const others = clopperPearson(27, 40);
    expect(some.low).toBeCloseTo(1 - others.high, 12);
    expect(some.high).toBeCloseTo(1 - others.low, 12);
  });

  it('is wider at a higher confidence', () => {
    expect(clopperPearson(5, 10, 0.99).low).toBeLessThan(clopperPearson(5, 10, 0.95).low);
  });

  it('refuses what is no proportion', () => {
    expect(() => clopperPearson(11, 10)).toThrow(RangeError);
    expect(() => clopperPearson(-1, 10)).toThrow(RangeError);
    expect(() => clopperPearson(0.5, 10)).toThrow(RangeError);
    expect(() => clopperPearson(5, 10, 1)).toThrow(RangeError);
  });
});

/** P(X >= k) of a binomial, summed term by term: slow, and independent of what it checks. */
function upperTail(k: number, trials: number, p: number): number {
  let sum = 0;
  let logChoose = 0;
  for (let i = 0; i <= trials; i++) {
    if (i > 0) logChoose += Math.log(trials - i + 1) - Math.log(i);
    if (i >= k) sum += Math.exp(logChoose + i * Math.log(p) + (trials - i) * Math.log1p(-p));
  }
  return sum;
}

describe('incompleteBeta', () => {
  it('is the identity for a = b = 1, and symmetric', () => {
    expect(incompleteBeta(0.37, 1, 1)).toBeCloseTo(0.37, 14);
    expect(incompleteBeta(0.3, 4, 7)).toBeCloseTo(1 - incompleteBeta(0.7, 7, 4), 14);
    expect(incompleteBeta(0.5, 250, 250)).toBeCloseTo(0.5, 12);
  });
});

describe('quantile', () => {
  it('interpolates between neighbours', () => {
    expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
    expect(quantile([10, 20, 30, 40, 50], 0.95)).toBeCloseTo(48, 12);
    expect(quantile([7], 0.99)).toBe(7);
    expect(quantile([], 0.5)).toBeNaN();
  });

  it('does not change its input', () => {
    const values = [3, 1, 2];
    quantile(values, 0.5);
    expect(values).toEqual([3, 1, 2]);
  });

  it('summarizes', () => {
    expect(summarize(Array.from({ length: 101 }, (_, i) => i))).toEqual({
      count: 101,
      p50: 50,
      p95: 95,
      p99: 99,
      max: 100,
    });
  });
});
