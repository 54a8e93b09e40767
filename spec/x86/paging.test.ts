import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { physical } from '../../src/x86/address.js';
import { type PageSource, translate } from '../../src/x86/paging.js';

const LEVEL_SHIFT = { 1: 12n, 2: 21n, 3: 30n, 4: 39n } as const;
type Level = 1 | 2 | 3;

interface Leaf {
  readonly va: bigint;
  readonly level: Level;
  /** Physical frame of the mapping's start, in units of its size. */
  readonly unit: bigint;
  readonly writable: boolean;
  readonly user: boolean;
  readonly noExecute: boolean;
}

/** Writes page tables: the inverse of the walk, done with 64-bit arithmetic throughout. */
class TableWriter implements PageSource {
  readonly #pages = new Map<number, Uint8Array>();
  readonly root: bigint;
  #next: number;

  constructor(firstFrame: number) {
    this.#next = firstFrame;
    this.root = BigInt(this.#table()) << 12n;
  }

  page(frame: number): Uint8Array | undefined {
    return this.#pages.get(frame);
  }

  /** Maps a leaf unless something is there already. */
  map(leaf: Leaf): 'mapped' | 'taken' {
    let table = Number(this.root >> 12n);
    for (let level = 4 as 4 | 3 | 2 | 1; level > leaf.level; level = (level - 1) as Level) {
      const found = this.#entry(table, leaf.va, level);
      if ((found & 1n) === 0n) {
        const below = this.#table();
        this.#set(table, leaf.va, level, (BigInt(below) << 12n) | 7n);
        table = below;
      } else if (level < 4 && (found & 0x80n) !== 0n) {
        return 'taken';
      } else {
        table = Number((found & 0x000f_ffff_ffff_f000n) >> 12n);
      }
    }
    if ((this.#entry(table, leaf.va, leaf.level) & 1n) !== 0n) return 'taken';
    const target = leaf.unit << LEVEL_SHIFT[leaf.level];
    const flags =
      1n |
      (leaf.writable ? 2n : 0n) |
      (leaf.user ? 4n : 0n) |
      (leaf.level > 1 ? 0x80n : 0n) |
      (leaf.noExecute ? 1n << 63n : 0n);
    this.#set(table, leaf.va, leaf.level, target | flags);
    return 'mapped';
  }

  /** Changes the bits of the entry of one level on the way to `va`. */
  restrict(va: bigint, level: 4 | 3 | 2 | 1, change: (entry: bigint) => bigint): void {
    let table = Number(this.root >> 12n);
    for (let at = 4 as 4 | 3 | 2 | 1; at > level; at = (at - 1) as Level)
      table = Number((this.#entry(table, va, at) & 0x000f_ffff_ffff_f000n) >> 12n);
    this.#set(table, va, level, change(this.#entry(table, va, level)));
  }

  #table(): number {
    const frame = this.#next++;
    this.#pages.set(frame, new Uint8Array(4096));
    return frame;
  }

  #view(table: number): DataView {
    return new DataView(this.#pages.get(table)!.buffer);
  }

  #at(va: bigint, level: 4 | 3 | 2 | 1): number {
    return Number((va >> LEVEL_SHIFT[level]) & 511n) * 8;
  }

  #entry(table: number, va: bigint, level: 4 | 3 | 2 | 1): bigint {
    return this.#view(table).getBigUint64(this.#at(va, level), true);
  }

  #set(table: number, va: bigint, level: 4 | 3 | 2 | 1, entry: bigint): void {
    this.#view(table).setBigUint64(this.#at(va, level), entry, true);
  }
}

const canonical = fc.bigInt({ min: 0n, max: 2n ** 48n - 1n }).map((va) => BigInt.asUintN(64, BigInt.asIntN(48, va)));
/** Near addresses share tables, which is where a walk can go wrong. */
const addresses = fc.oneof(
  canonical,
  fc.bigInt({ min: 0n, max: 2n ** 33n }).map((offset) => 0xffff_82d0_0000_0000n + offset),
);
const leaves: fc.Arbitrary<Leaf> = fc
  .record({
    va: addresses,
    level: fc.constantFrom<Level>(1, 2, 3),
    unit: fc.bigInt({ min: 0n, max: 2n ** 40n - 1n }),
    writable: fc.boolean(),
    user: fc.boolean(),
    noExecute: fc.boolean(),
  })
  .map((leaf) => ({ ...leaf, unit: leaf.unit >> (LEVEL_SHIFT[leaf.level] - 12n) }));
/** First frame of the tables: also above 4 GiB and with the top bit of the low half set. */
const firstFrames = fc.constantFrom(1, 0x80000, 0xfffff, 0x100000, 0x8_0000_0000);

describe('page walk', () => {
  it('finds what a writer mapped: 4 KiB, 2 MiB and 1 GiB pages with their rights', () => {
    fc.assert(
      fc.property(firstFrames, fc.array(leaves, { minLength: 1, maxLength: 30 }), (first, wanted) => {
        const tables = new TableWriter(first);
        for (const leaf of wanted.filter((one) => tables.map(one) === 'mapped')) {
          const size = 1n << LEVEL_SHIFT[leaf.level];
          const expected = {
            physical: Number((leaf.unit << LEVEL_SHIFT[leaf.level]) + (leaf.va & (size - 1n))),
            pageSize: Number(size),
            writable: leaf.writable,
            user: leaf.user,
            noExecute: leaf.noExecute,
          };
          expect(translate(tables, tables.root, leaf.va)).toEqual(expected);
          expect(translate(tables, tables.root | 0xfffn, leaf.va)).toEqual(expected);
          expect(translate(tables, physical(tables.root), leaf.va)).toEqual(expected);
        }
      }),
    );
  });

  it('finds nothing where nothing was mapped', () => {
    fc.assert(
      fc.property(fc.array(leaves, { maxLength: 10 }), addresses, (wanted, va) => {
        const tables = new TableWriter(1);
        const mapped = wanted.filter((one) => tables.map(one) === 'mapped');
        const inside = mapped.some((leaf) => leaf.va >> LEVEL_SHIFT[leaf.level] === va >> LEVEL_SHIFT[leaf.level]);
        expect(translate(tables, tables.root, va) !== undefined).toBe(inside);
      }),
    );
  });

  it('takes the least rights of all levels', () => {
    const va = 0xffff_82d0_4020_1234n;
    const leaf: Leaf = { va, level: 1, unit: 0x123n, writable: true, user: true, noExecute: false };
    for (const level of [4, 3, 2, 1] as const) {
      const tables = new TableWriter(1);
      tables.map(leaf);
      tables.restrict(va, level, (entry) => (entry & ~6n) | (1n << 63n));
      expect(translate(tables, tables.root, va)).toMatchObject({
        physical: 0x123234,
        writable: false,
        user: false,
        noExecute: true,
      });
    }
  });

  it('refuses addresses that are not canonical', () => {
    const tables = new TableWriter(1);
    tables.map({ va: 0n, level: 3, unit: 0n, writable: true, user: true, noExecute: false });
    expect(translate(tables, tables.root, 0n)).toBeDefined();
    expect(translate(tables, tables.root, 1n << 48n)).toBeUndefined();
    expect(translate(tables, tables.root, 0x0000_8000_0000_0000n)).toBeUndefined();
  });

  it('finds nothing behind a table that is not in memory', () => {
    const tables = new TableWriter(1);
    const va = 0x1000n;
    tables.map({ va, level: 1, unit: 1n, writable: true, user: true, noExecute: false });
    tables.restrict(va, 3, () => (999n << 12n) | 7n);
    expect(translate(tables, tables.root, va)).toBeUndefined();
    expect(translate({ page: () => undefined }, tables.root, va)).toBeUndefined();
  });
});
