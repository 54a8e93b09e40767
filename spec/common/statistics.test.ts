import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  clopperPearson,
  differenceOfShares,
  fisherExact,
  incompleteBeta,
  quantile,
  summarize,
  wilson,
} from '../../src/common/statistics.js';

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

const of = (successes: number, trials: number) => ({ successes, trials });

describe('differenceOfShares', () => {
  // Newcombe, Statistics in Medicine 17 (1998), table II, method 10.
  it.each([
    [56, 70, 48, 80, 0.0524, 0.3339],
    [9, 10, 3, 10, 0.1705, 0.809],
    [6, 7, 2, 7, 0.0582, 0.8062],
    [5, 56, 0, 29, -0.0381, 0.1926],
    [0, 10, 0, 20, -0.1611, 0.2775],
    [0, 10, 0, 10, -0.2775, 0.2775],
    [10, 10, 0, 20, 0.6791, 1],
    [10, 10, 0, 10, 0.6075, 1],
  ])('gives %i/%i - %i/%i the published interval', (a, m, b, n, low, high) => {
    const found = differenceOfShares(of(a, m), of(b, n));
    expect(found.difference).toBeCloseTo(a / m - b / n, 12);
    expect(found.low).toBeCloseTo(low, 4);
    expect(found.high).toBeCloseTo(high, 4);
  });

  it('is the same the other way round, with the other sign', () => {
    const [one, other] = [differenceOfShares(of(9, 40), of(30, 50)), differenceOfShares(of(30, 50), of(9, 40))];
    expect([-other.high, -other.low]).toEqual([one.low, one.high]);
  });
});

describe('wilson', () => {
  // Newcombe, Statistics in Medicine 17 (1998), page 857, table I, method 3.
  it.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ])('gives %i of %i the published interval', (successes, trials, low, high) => {
    expect(wilson(of(successes, trials)).low).toBeCloseTo(low, 4);
    expect(wilson(of(successes, trials)).high).toBeCloseTo(high, 4);
  });
});

describe('fisherExact', () => {
  // Fisher's tea taster; the convictions of twins (R's manual of fisher.test); nothing at all; a clear case.
  it.each([
    [3, 4, 1, 4, 0.485714],
    [2, 17, 10, 13, 0.0005367],
    [5, 10, 5, 10, 1],
    [0, 10, 10, 10, 0.0000108],
  ])('gives %i/%i against %i/%i the published p-value', (a, m, b, n, p) => {
    expect(fisherExact(of(a, m), of(b, n))).toBeCloseTo(p, 6);
  });

  it('is a probability, the same both ways, and 1 where there is no difference', () => {
    const counted = fc.integer({ min: 1, max: 300 }).chain((n) => fc.integer({ min: 0, max: n }).map((k) => of(k, n)));
    fc.assert(
      fc.property(counted, counted, (a, b) => {
        const p = fisherExact(a, b);
        expect(p).toBeGreaterThan(0);
        expect(p).toBeLessThanOrEqual(1);
        expect(fisherExact(b, a)).toBeCloseTo(p, 9);
        expect(fisherExact(a, a)).toBeCloseTo(1, 9);
      }),
    );
  });
});
