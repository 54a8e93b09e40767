import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Random } from '../../src/common/random.js';

const first = (random: Random, count: number): bigint[] => Array.from({ length: count }, () => random.next());

describe('Random', () => {
  it('is SplitMix64: these values never change, since seeds in reports name runs by them', () => {
    expect(first(new Random(0), 3)).toEqual([0xe220a8397b1dcdafn, 0x6e789e6aa1b965f4n, 0x06c45d188009454fn]);
    expect(first(new Random(1234567), 3)).toEqual([6457827717110365317n, 3203168211198807973n, 9817491932198370423n]);
  });

  it('draws integers from a range, both ends included', () => {
    const seen = new Set<number>();
    const random = new Random(5);
    for (let n = 0; n < 300; n++) seen.add(random.integer(3, 6));
    expect([...seen].sort((a, b) => a - b)).toEqual([3, 4, 5, 6]);
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: -1000, max: 1000 }), fc.nat(1000), (seed, low, width) => {
        const value = new Random(seed).integer(low, low + width);
        expect(Number.isInteger(value) && value >= low && value <= low + width).toBe(true);
      }),
    );
  });

  it('picks every item, and complains about none', () => {
    const random = new Random(9);
    const picked = new Set(Array.from({ length: 100 }, () => random.pick(['a', 'b', 'c'])));
    expect(picked.size).toBe(3);
    expect(() => random.pick([])).toThrow(RangeError);
  });

  it('gives each part of the work a generator of its own, whatever the others draw', () => {
    expect(first(Random.forPart(500, 7), 4)).toEqual(first(Random.forPart(500, 7), 4));
    const starts = new Set<bigint>();
    for (let seed = 0; seed < 20; seed++) {
      for (let part = 0; part < 50; part++) starts.add(Random.forPart(seed, part).next());
    }
    expect(starts.size).toBe(1000);
  });

  it('fixes what run 3 of seed 500 is', () => {
    expect(first(Random.forPart(500, 3), 2)).toMatchInlineSnapshot(`
      [
        7414702012356707252n,
        18026085589028064981n,
      ]
    `);
  });
});
