import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { pageAllocator } from '../../../src/recover/microreset/page-allocator.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { FrameWords } from '../../../src/xen/frames.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FREE_BLOCK, PREVIOUS_FREE, XmemPool } from '../../../src/xen/xmem-pool.js';
import { FakeXen } from '../../support/fake-xen.js';
import { FakeXmemPool } from '../../support/fake-xmem-pool.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
let pool: FakeXmemPool;
beforeEach(() => {
  fake = new FakeXen();
  pool = new FakeXmemPool(fake);
});

function finish<T>(operation: Generator<bigint, T>): T {
  for (;;) {
    const { done, value } = operation.next();
    if (done === true) return value;
  }
}

/** Drops an operation after so many stores, with the block in a register. Says whether it was dropped at all. */
function dropAfter(operation: Generator<bigint, unknown>, stores: number, where: string): boolean {
  for (let n = 0; n <= stores; n++) {
    const { done, value } = operation.next();
    if (done === true) return false;
    fake.enterXen(0, fake.symbol(where) + 4n);
    fake.registers(0).rbx = value as bigint;
  }
  return true;
}

/** The plan of a real recovery: only what the dropped thread leads to is looked at. */
function planned(): { readonly findings: readonly string[]; readonly after: Xen } {
  const xen = fake.xen();
  const plan = makePlan({ name: 'test', steps: [pageAllocator] }, xen, readEntryFacts(xen));
  for (const edit of plan.edits) if (edit.kind === 'memory') fake.putBytes(edit.address, edit.after);
  return { findings: plan.steps[0]!.findings, after: fake.xen() };
}

/** What is wrong with the pool, in words; and its free blocks. */
function inspect(xen: Xen): { readonly wrong: string[]; readonly free: ReadonlyMap<bigint, number> } {
  const wrong: string[] = [];
  const reader = new XmemPool(xen, new FrameWords(xen));
  const listed = new Set<bigint>();
  for (const [index, { blocks, broken }] of reader.lists().entries()) {
    if (broken !== undefined) wrong.push(`list ${index}: ${broken}`);
    for (const block of blocks) listed.add(block);
  }
  const free = new Map<bigint, number>();
  for (const page of pool.pages) {
    const blocks = reader.blocksOf(page);
    if (blocks === undefined) wrong.push(`page ${page.toString(16)} is no region`);
    let [before, beforeFree] = [0n, false];
    const all = [...(blocks ?? []), { address: reader.sentinelOf(page), size: 0, free: false }];
    for (const block of all) {
      if (reader.previousOf(block.address) !== before) wrong.push(`${block.address.toString(16)}: link back`);
      const flags = (block.free ? FREE_BLOCK : 0) | (beforeFree ? PREVIOUS_FREE : 0);
      if ((reader.sizeWord(block.address) & 7) !== flags) wrong.push(`${block.address.toString(16)}: flags`);
      if (block.free !== listed.delete(block.address)) wrong.push(`${block.address.toString(16)}: free and on no list`);
      if (block.free) free.set(block.address, block.size);
      [before, beforeFree] = [block.address, block.free];
    }
  }
  if (listed.size > 0) wrong.push('blocks are listed that do not exist');
  return { wrong, free };
}

describe('page-allocator, the pool of xmalloc', () => {
  it('leaves a pool in order alone', () => {
    const [a, b] = [finish(pool.alloc(64))!, finish(pool.alloc(256))!];
    finish(pool.alloc(128));
    finish(pool.free(a));
    finish(pool.free(b));
    expect(inspect(fake.xen()).wrong).toEqual([]);
    expect(planWith(fake, pageAllocator)).toMatchObject({ findings: [], writes: [] });
  });

  it('leaves in use what was being taken', () => {
    expect(dropAfter(pool.alloc(4048), 2, 'xmem_pool_alloc')).toBe(true);
    const { findings, after } = planned();
    expect(findings).toEqual(["4064 bytes of xmalloc's were being taken or given back; they stay in use"]);
    expect(inspect(after).wrong).toEqual([]);
    expect(inspect(after).free.size).toBe(1);
  });

  it('leaves in use what was being given back, so that it can be given back again', () => {
    const block = finish(pool.alloc(64))!;
    finish(pool.alloc(64));
    expect(dropAfter(pool.free(block), 1, 'xmem_pool_free')).toBe(true);
    const { findings, after } = planned();
    expect(findings).toEqual(["64 bytes of xmalloc's were being taken or given back; they stay in use"]);
    expect(inspect(after).free.has(block)).toBe(false);
    finish(pool.free(block));
    expect(inspect(fake.xen()).wrong).toEqual([]);
  });

  it('gives nobody a block whose region cannot be told', () => {
    const [torn, whole] = pool.pages as [bigint, bigint];
    fake.put(torn + 4096n - 8n, 4, 0x123);
    fake.enterXen(0, 'xmem_pool_alloc');
    fake.registers(0).rbx = torn;
    const { findings, after } = planned();
    expect(findings.join()).toMatch(/is taken off its list: the region around it cannot be told/);
    const lists = new XmemPool(after, new FrameWords(after)).lists();
    expect(lists.flatMap(({ blocks }) => blocks)).toEqual([whole]);
    expect(lists.every(({ broken }) => broken === undefined)).toBe(true);
  });

  it('keeps apart all blocks that can have been merged last, since headers of blocks merged earlier stay behind', () => {
    finish(pool.alloc(16));
    const [a, b] = [finish(pool.alloc(16))!, finish(pool.alloc(16))!];
    finish(pool.free(a));
    finish(pool.free(b));
    // Whoever gets this does not write on b's header.
    expect(finish(pool.alloc(64))).toBe(a);
    const last = finish(pool.alloc(16))!;
    finish(pool.free(a));
    // The store by which the free block before it reaches to its end.
    expect(dropAfter(pool.free(last), 17, 'xmem_pool_free')).toBe(true);
    const { after } = planned();
    expect(inspect(after).wrong).toEqual([]);
    const blocks = new XmemPool(after, new FrameWords(after)).blocksOf(a & ~0xfffn)!;
    expect(blocks.map(({ address, free }) => ({ address, free }))).toEqual(
      [a & ~0xfffn, a, b, last].map((address) => ({ address, free: false })),
    );
    finish(pool.free(last));
    expect(inspect(fake.xen()).wrong).toEqual([]);
  });

  const operation = fc.record({
    free: fc.boolean(),
    size: fc.integer({ min: 1, max: 60 }),
    pick: fc.nat(20),
    /** Whether whoever gets the block writes on all of it; otherwise old headers stay there. */
    writes: fc.boolean(),
  });
  const take = (size: number) => ({ free: false, size, pick: 0, writes: false });
  const giveBack = (pick: number) => ({ free: true, size: 1, pick, writes: false });

  it('makes of an operation dropped after any of its stores a pool in order, and gives away nothing that is in use', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 16 }), operation, fc.nat(32), (before, last, stores) => {
        fake = new FakeXen();
        pool = new FakeXmemPool(fake);
        const used = new Map<bigint, number>();
        const begin = ({ free, size, pick }: (typeof before)[number]): Generator<bigint, bigint | undefined> => {
          const block = free ? [...used.keys()][pick % Math.max(1, used.size)] : undefined;
          return block === undefined ? pool.alloc(16 * size) : pool.free(block);
        };
        for (const next of before) {
          const block = next.free ? [...used.keys()][next.pick % Math.max(1, used.size)] : undefined;
          const given = finish(begin(next));
          if (block !== undefined) used.delete(block);
          else if (given !== undefined) used.set(given, 16 * next.size);
          if (given !== undefined && next.writes) fake.putBytes(given + 16n, Array(16 * next.size).fill(0xa5));
        }
        expect(inspect(fake.xen()).wrong).toEqual([]);
        const freed = last.free ? [...used.keys()][last.pick % Math.max(1, used.size)] : undefined;
        const others = [...used].filter(([block]) => block !== freed);
        const contents = (xen: Xen) => others.map(([block, size]) => xen.memory.bytes(block + 16n, size));
        const held = contents(fake.xen());
        if (!dropAfter(begin(last), stores, freed === undefined ? 'xmem_pool_alloc' : 'xmem_pool_free')) return;
        const { after } = planned();
        const { wrong, free } = inspect(after);
        expect(wrong).toEqual([]);
        for (const [block, size] of others) {
          for (const [at, length] of free)
            expect(at + BigInt(length) + 16n <= block || at >= block + 16n + BigInt(size)).toBe(true);
        }
        expect(contents(after)).toEqual(held);
        // Whoever gave a block back may be retried: that it is then given back, once or again, does no harm where it is in use.
        if (
          freed !== undefined &&
          !free.has(freed) &&
          ![...free].some(([at, length]) => freed > at && freed < at + BigInt(length))
        ) {
          finish(pool.free(freed));
          expect(inspect(fake.xen()).wrong).toEqual([]);
          expect(contents(fake.xen())).toEqual(held);
        }
      }),
      {
        numRuns: 300,
        // Found by chance (seed -2005498726): of two headers in a merged block, the first was older.
        examples: [
          [
            [take(1), take(1), giveBack(0), giveBack(0), take(2), take(1), take(1), giveBack(0), giveBack(0)],
            giveBack(0),
            17,
          ],
        ],
      },
    );
  }, 120_000);
});
