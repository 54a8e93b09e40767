import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { linearScale, linearTicks, logDomain, logScale } from '../../../src/report/chart/scale.js';

describe('linear scales', () => {
  it.each([
    [0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]],
    [0.8, 1, 4, [0.8, 0.85, 0.9, 0.95, 1]],
    [0, 188, 4, [0, 50, 100, 150]],
  ])('marks %d to %d at round values', (low, high, wanted, ticks) => {
    expect(linearTicks(low, high, wanted)).toEqual(ticks);
  });

  it('puts values outside at the nearer end', () => {
    const scale = linearScale([0, 10], [100, 200]);
    expect([scale.at(-5), scale.at(5), scale.at(15)]).toEqual([100, 150, 200]);
  });

  it('does without a span', () => {
    const scale = linearScale([3, 3], [0, 100]);
    expect(scale.at(3)).toBe(0);
    expect(scale.ticks).toEqual([3]);
  });
});

describe('logarithmic scales', () => {
  it('makes equal ratios equal steps', () => {
    const scale = logScale([1, 1000], [0, 300]);
    expect([scale.at(1), scale.at(10), scale.at(100), scale.at(1000)].map(Math.round)).toEqual([0, 100, 200, 300]);
  });

  it('marks decades only where finer marks would be too many', () => {
    expect(logScale([1, 1000], [0, 300], 4).ticks).toEqual([1, 10, 100, 1000]);
    expect(logScale([5, 50], [0, 300], 8).ticks).toEqual([5, 10, 20, 50]);
  });

  it('refuses a domain that reaches 0', () => {
    expect(() => logScale([0, 10], [0, 1])).toThrow(RangeError);
  });

  it('chooses a domain that holds all values and begins and ends at round ones', () => {
    expect(logDomain([1.3, 41])).toEqual([1, 50]);
    expect(logDomain([5, 5])).toEqual([5, 50]);
    expect(logDomain([])).toEqual([1, 10]);
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0.001, max: 1e6, noNaN: true }), { minLength: 1 }), (values) => {
        const [low, high] = logDomain(values);
        expect(low).toBeLessThanOrEqual(Math.min(...values) * (1 + 1e-9));
        expect(high).toBeGreaterThanOrEqual(Math.max(...values) * (1 - 1e-9));
        expect(high).toBeGreaterThan(low);
      }),
    );
  });
});
