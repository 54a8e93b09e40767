import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { pageAllocator } from '../../../src/recover/microreset/page-allocator.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakePageHeap, FREE } from '../../support/fake-page-heap.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
let heap: FakePageHeap;
beforeEach(() => {
  fake = new FakeXen();
  heap = new FakePageHeap(fake);
});

function finish<T>(operation: Generator<number, T>): T {
  for (;;) {
    const { done, value } = operation.next();
    if (done === true) return value;
  }
}

/** Drops an operation after so many stores; what it worked on stays in a register. Says whether it was dropped at all. */
function dropAfter(operation: Generator<number, unknown>, stores: number, where: string): boolean {
  for (let n = 0; n <= stores; n++) {
    const { done, value } = operation.next();
    if (done === true) return false;
    fake.enterXen(0, fake.symbol(where) + 4n);
    fake.registers(0).rbx = heap.reader().descriptor(Number(value));
  }
  fake.put(fake.symbol('heap_lock'), 2, 0);
  fake.put(fake.symbol('heap_lock') + 2n, 2, 1);
  return true;
}

/** What is wrong with free memory, in words. */
function complaints(xen: Xen): string[] {
  const found: string[] = [];
  const reader = heap.reader(xen);
  const { lists } = reader.read();
  const listed = new Map<number, number>();
  let dirt = 0;
  for (const { broken, heads, order, zone } of lists) {
    if (broken !== undefined) found.push(`order ${order}: ${broken}`);
    for (const head of heads) {
      if (reader.isBeingScrubbed(head)) found.push(`${head} is being scrubbed`);
      const { pages, first } = reader.dirtIn({ from: head, to: head + 2 ** order });
      dirt += pages;
      if (first !== undefined && reader.firstDirty(head) > first - head) found.push(`${head} hides dirt`);
      for (let frame = head; frame < head + 2 ** order; frame++) {
        if (listed.has(frame)) found.push(`${frame} is in two blocks`);
        if (!reader.isFree(frame)) found.push(`${frame} is not free`);
        listed.set(frame, zone);
      }
    }
  }
  for (let frame = FREE.from; frame < FREE.to; frame++)
    if (reader.isFree(frame) && !listed.has(frame)) found.push(`${frame} is free and on no list`);
  const avail = xen.memory.u64(xen.memory.u64(xen.symbol('avail')) + 8n * 13n);
  if (Number(avail) !== listed.size) found.push(`avail is ${avail} of ${listed.size}`);
  const total = xen.memory.u64(xen.symbol('total_avail_pages'));
  if (Number(total) !== listed.size) found.push(`total is ${total} of ${listed.size}`);
  const counted = xen.memory.u64(xen.symbol('node_need_scrub'));
  if (Number(counted) !== dirt) found.push(`${counted} pages to be scrubbed, not ${dirt}`);
  return found;
}

describe('page-allocator', () => {
  it('leaves a heap in order alone', () => {
    const [a, b] = [finish(heap.alloc(0))!, finish(heap.alloc(3))!];
    finish(heap.alloc(1));
    finish(heap.free(a, 0, true));
    finish(heap.free(b, 3, false));
    expect(complaints(fake.xen())).toEqual([]);
    expect(planWith(fake, pageAllocator)).toMatchObject({ findings: [], writes: [] });
  });

  it('does not look when no thread was in the allocator and nobody holds its lock', () => {
    fake.put(heap.list(11), 8, 0xbadn);
    fake.enterXen(0, 'do_sched_op');
    const xen = fake.xen();
    const plan = makePlan({ name: 'test', steps: [pageAllocator] }, xen, readEntryFacts(xen));
    expect(plan.steps[0]).toMatchObject({ findings: [], edits: 0 });
  });

  it('looks when the lock is held, whatever the stack tells', () => {
    finish(heap.alloc(0));
    fake.enterXen(0, 'do_sched_op');
    fake.put(fake.symbol('total_avail_pages'), 8, 5);
    fake.put(fake.symbol('heap_lock') + 2n, 2, 1);
    const xen = fake.xen();
    const plan = makePlan({ name: 'test', steps: [pageAllocator] }, xen, readEntryFacts(xen));
    expect(plan.steps[0]!.findings).toEqual(['2047 pages are free; counted anew']);
  });

  it('lets nobody wait for a scrubber that is gone', () => {
    const page = finish(heap.alloc(0))!;
    finish(heap.free(page, 0, true));
    heap.set(FREE.from, 'u.free.scrub_state', 1);
    fake.put(fake.symbol('node_scrubbing'), 8, 1);
    const { after, findings } = planWith(fake, pageAllocator);
    expect(findings).toEqual(['block at frame 0x1800 was being scrubbed']);
    expect(complaints(after)).toEqual([]);
    expect(after.memory.u64(fake.symbol('node_scrubbing'))).toBe(0n);
  });

  it('counts claims anew from those of the domains', () => {
    fake.set('domain', fake.hvm.domain, 'outstanding_pages', 7);
    fake.put(fake.symbol('outstanding_claims'), 8, 9);
    const { after, findings } = planWith(fake, pageAllocator);
    expect(findings).toEqual(['7 pages are claimed; counted anew']);
    expect(after.memory.u64(fake.symbol('outstanding_claims'))).toBe(7n);
  });

  it('finds blocks that a spoilt list has lost, by looking everywhere', () => {
    const pages = Array.from({ length: 8 }, () => finish(heap.alloc(0))!);
    for (const page of pages.filter((frame) => frame % 2 === 0)) finish(heap.free(page, 0, false));
    heap.set(pages[2]!, 'list.next', 3);
    heap.set(pages[4]!, 'list.prev', 3);
    heap.set(pages[4]!, 'list.next', 3);
    heap.set(pages[6]!, 'list.prev', 3);
    const { after } = planWith(fake, pageAllocator);
    expect(complaints(after)).toEqual([]);
  });

  it('scrubs and flushes the page that was just being freed, whatever was noted', () => {
    const page = finish(heap.alloc(0))!;
    heap.set(page, 'v.inuse._domain', 0x77);
    fake.put(fake.symbol('tlbflush_clock'), 4, 99);
    expect(dropAfter(heap.free(page, 0, false), 0, 'free_heap_pages')).toBe(true);
    const { after } = planWith(fake, pageAllocator);
    expect(complaints(after)).toEqual([]);
    const info = after.object('page_info', heap.reader().descriptor(page));
    expect([info.num('u.free.need_tlbflush'), info.num('tlbflush_timestamp')]).toEqual([1, 99]);
    expect(heap.reader(after).needsScrub(page)).toBe(true);
  });

  const operation = fc.record({ free: fc.boolean(), order: fc.nat(3), pick: fc.nat(20), scrub: fc.boolean() });

  it('makes of an operation dropped after any of its stores a heap in order, and gives away nothing that is in use', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 12 }), operation, fc.nat(40), (before, last, stores) => {
        fake = new FakeXen();
        heap = new FakePageHeap(fake);
        const used: [head: number, order: number][] = [];
        const begin = ({
          free,
          order,
          pick,
          scrub,
        }: (typeof before)[number]): Generator<number, number | undefined> => {
          const [taken] = free && used.length > 0 ? used.splice(pick % used.length, 1) : [];
          return taken === undefined ? heap.alloc(order) : heap.free(taken[0], taken[1], scrub);
        };
        for (const next of before) {
          const head = finish(begin(next));
          if (head !== undefined) used.push([head, next.order]);
        }
        expect(complaints(fake.xen())).toEqual([]);
        const freeing = last.free && used.length > 0;
        if (!dropAfter(begin(last), stores, freeing ? 'free_heap_pages' : 'alloc_heap_pages')) return;
        const { after } = planWith(fake, pageAllocator);
        expect(complaints(after)).toEqual([]);
        for (const [head, order] of used)
          for (let frame = head; frame < head + 2 ** order; frame++)
            expect(heap.reader(after).isFree(frame)).toBe(false);
      }),
      { numRuns: 100 },
    );
  }, 120_000);
});
