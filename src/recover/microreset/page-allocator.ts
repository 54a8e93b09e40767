/**
 * Xen's allocators, when a thread was dropped in one of them: the page heap (free blocks on lists by node, zone and order;
 * Xen 4.17, common/page_alloc.c) here, and the pools of `xmalloc` (`xmem-pools.ts`). The page heap has one lock, so at most
 * one change of it was half done, and each leaves something that Xen would stumble over later:
 * - a list linked in one direction only: it is linked anew from the direction that is whole;
 * - free pages on no list: a block that was taken off to be split, merged or handed out, pages that were being freed. They look
 *   free, so Xen would merge them with a neighbour and take them off a list on which they are not. They are put on the lists. Pages
 *   that had been marked as used are left alone: nobody got them, so they are lost (leaking is safe; we cannot tell them
 *   from pages that somebody has);
 * - counts of free pages and of pages to be scrubbed that differ from the lists: a heap that seems to have what it has not is a BUG to
 *   Xen, and one that seems to have something to scrub keeps idle CPUs from sleeping;
 * - a block marked as being scrubbed: whoever wants it waits for a scrubber that is gone, holding the lock.
 *
 * Pages caught while they were being freed are scrubbed and flushed from TLBs before they are used again, whatever was noted.
 * Links of domains' own page lists, and pages taken out of service (offlined), are not looked at.
 */
import { type FrameRange, type FreeList, isAllocatorLocked, NO_BLOCK, PageHeap } from '../../xen/page-heap.js';
import { descriptorsHeld, framesLedTo } from '../../xen/touched.js';
import type { Step, StepContext } from '../step.js';
import { repairPool } from './xmem-pools.js';

/** Functions that change the page heap or the counts that go with it. */
const HEAP_CODE =
  /heap_pages|get_free_buddy|page_list_(add|del)|reserve_offlined_page|scrub_free_pages|scrub_one_page|domain_(adjust_tot|set_outstanding)_pages/;
const ALLOCATING = /alloc_\w*heap_pages/;
/** Descriptors looked at, at most, to find what was not yet handed out of blocks: the largest block. */
const HANDED_LIMIT = 262_144;
/** Descriptors looked at, at most, to count pages to be scrubbed: 256 MiB of memory. */
const DIRT_LIMIT = 65_536;

export const pageAllocator: Step = {
  name: 'page-allocator',
  removes: 'lists and counts of free memory caught half changed',
  source: 'ours; Xen 4.17 common/page_alloc.c',
  run(context) {
    const { wasIn, frozen } = context;
    // Of a failed CPU the innermost function is not known; where that holds no lock, it scrubs.
    const scrubs = frozen.memory.u64(frozen.symbol('node_scrubbing')) !== 0n;
    if (scrubs || wasIn(HEAP_CODE) || isAllocatorLocked(frozen)) new FreeMemory(context).repair();
    repairPool(context);
  },
};

class FreeMemory {
  readonly #context: StepContext;
  readonly #heap: PageHeap;
  /** Every list, by the address of its head, with the blocks it is to have. */
  readonly #lists = new Map<bigint, { readonly list: FreeList; heads: number[] }>();
  /** Order of each listed block, by its head, and where blocks end. */
  readonly #blocks = new Map<number, number>();
  readonly #ends = new Set<number>();

  constructor(context: StepContext) {
    this.#context = context;
    this.#heap = new PageHeap(context.xen);
  }

  repair(): void {
    const { plan, xen } = this.#context;
    // Links are numbers of descriptors, not of frames, where Xen leaves out holes between them.
    if (!xen.memory.hasPlainDirectMap) return;
    const { lists, cutShort } = this.#heap.read();
    if (cutShort) {
      plan.found('free memory is in too many pieces to be checked');
      return;
    }
    const strays: number[] = [];
    for (const list of lists) {
      this.#lists.set(list.address, { list, heads: [...list.heads] });
      strays.push(...list.strays);
      if (list.broken !== undefined) plan.found(`${nameOf(list)}: ${list.broken}; linked anew`);
    }
    if (lists.some(({ broken }) => broken !== undefined)) this.#dropOverlapping();
    for (const { list, heads } of this.#lists.values()) for (const head of heads) this.#note(head, list.order);
    this.#putBack(this.#unlisted(strays));
    if (this.#isShort()) this.#putBack(this.#unlistedAnywhere());
    for (const { list, heads } of this.#lists.values()) this.#link(list, heads);
    this.#endScrubbing();
    this.#count();
    this.#countClaims();
  }

  #note(head: number, order: number): void {
    this.#blocks.set(head, order);
    this.#ends.add(head + 2 ** order);
  }

  /** What a broken list leads to and is part of another block, is no block of its own. */
  #dropOverlapping(): void {
    const all = [...this.#lists.values()].flatMap((entry) => entry.heads.map((head) => ({ head, entry })));
    all.sort((a, b) => a.head - b.head || b.entry.list.order - a.entry.list.order);
    let before: (typeof all)[number] | undefined;
    for (const block of all) {
      const overlaps = before !== undefined && block.head < before.head + 2 ** before.entry.list.order;
      const wrong = overlaps && block.entry.list.broken === undefined ? before! : block;
      if (overlaps) wrong.entry.heads = wrong.entry.heads.filter((head) => head !== wrong.head);
      if (!overlaps || wrong === before) before = block;
    }
  }

  /** Free pages on no list that an abandoned thread or a broken list leads to. */
  #unlisted(strays: readonly number[]): FrameRange[] {
    const { frozen, abandoned } = this.#context;
    const found: FrameRange[] = [];
    const candidates = [...framesLedTo(frozen, this.#heap.words.count, abandoned), ...strays, ...this.#restsOfBlocks()];
    for (const frame of candidates) {
      if (!this.#heap.isFree(frame) || this.#isListed(frame)) continue;
      if (!found.some(({ from, to }) => frame >= from && frame < to)) found.push(this.#around(frame));
    }
    return found;
  }

  /**
   * A block that is handed out is marked as used page by page. Of the thread that did it only the first page may be known: what
   * follows the pages marked already can be the rest.
   */
  #restsOfBlocks(): number[] {
    const { frozen, abandoned, wasIn } = this.#context;
    const rests: number[] = [];
    if (!wasIn(ALLOCATING)) return rests;
    const { words } = this.#heap;
    let left = HANDED_LIMIT;
    for (const held of descriptorsHeld(frozen, words.count, abandoned)) {
      let frame = held;
      while (frame < words.count && words.countOf(frame) === 0 && left > 0) {
        frame++;
        left--;
      }
      if (frame !== held) rests.push(frame);
    }
    return rests.filter((frame) => frame < words.count);
  }

  #isListed(frame: number): boolean {
    for (let order = 0; order <= this.#heap.maxOrder; order++) {
      const head = frame - (frame % 2 ** order);
      if ((this.#blocks.get(head) ?? -1) >= order) return true;
    }
    return false;
  }

  /** All free pages on no list around one of them: as far as one block can reach. */
  #around(frame: number): FrameRange {
    const heap = this.#heap;
    const most = 2 ** heap.maxOrder;
    const start = frame - (frame % most);
    let from = frame;
    while (from > start && from > 1 && !this.#ends.has(from) && heap.isFree(from - 1)) from--;
    let to = frame + 1;
    while (to < start + most && !this.#blocks.has(to) && heap.isFree(to)) to++;
    return { from, to };
  }

  /** Whether the lists have less than Xen believes: no change caught half done leaves that, so blocks are lost somewhere. */
  #isShort(): boolean {
    const { xen } = this.#context;
    const free = this.#freePages();
    return this.#heap
      .nodes()
      .some((node) =>
        Array.from({ length: this.#heap.zones }, (_, zone) => zone).some(
          (zone) => (free.get(`${node} ${zone}`) ?? 0) < Number(xen.memory.i64(this.#availAt(node, zone))),
        ),
      );
  }

  /** The same as `#unlisted`, looked for in the whole frame table. */
  #unlistedAnywhere(): FrameRange[] {
    const found: FrameRange[] = [];
    for (let frame = 1; frame < this.#heap.words.count; ) {
      if (!this.#heap.isFree(frame)) {
        frame++;
        continue;
      }
      const order = this.#blocks.get(frame);
      if (order === undefined) found.push(this.#around(frame));
      frame = order === undefined ? found.at(-1)!.to : frame + 2 ** order;
    }
    return found;
  }

  /** Puts free pages on the lists, in blocks as large as fit. */
  #putBack(ranges: readonly FrameRange[]): void {
    const { plan } = this.#context;
    const heap = this.#heap;
    for (const { from, to } of ranges) {
      plan.found(`${to - from} free pages from frame 0x${from.toString(16)} were on no list`);
      this.#distrust(to - 1);
      for (let head = from; head < to; ) {
        let order = 0;
        while (order < heap.maxOrder && head % 2 ** (order + 1) === 0 && head + 2 ** (order + 1) <= to) order++;
        this.#add(head, order);
        head += 2 ** order;
      }
    }
  }

  /** The last of pages being freed (if they are) may have been marked as free and not yet as what it needs. */
  #distrust(frame: number): void {
    const { plan, xen } = this.#context;
    const info = xen.object('page_info', this.#heap.descriptor(frame));
    const reason = `frame 0x${frame.toString(16)} was being freed`;
    const scrub = BigInt(xen.profile.constant('PGC_need_scrub'));
    plan.set(info, 'count_info', info.u64('count_info') | scrub, reason);
    plan.set(info, 'u.free.need_tlbflush', 1, reason);
    plan.set(info, 'tlbflush_timestamp', xen.memory.u32(xen.symbol('tlbflush_clock')), reason);
    plan.set(info, 'v.free.order', 0, reason);
    this.#heap.words.changed();
  }

  #add(head: number, order: number): void {
    const { plan, xen } = this.#context;
    const heap = this.#heap;
    const { first } = heap.dirtIn({ from: head, to: head + 2 ** order });
    const info = xen.object('page_info', heap.descriptor(head));
    const reason = `block of order ${order} put back on its list`;
    plan.set(info, 'v.free.order', order, reason);
    plan.set(info, 'u.free.first_dirty', first === undefined ? heap.clean : first - head, reason);
    plan.set(info, 'u.free.scrub_state', 0, reason);
    const [node, zone] = [heap.nodeOf(head), heap.zoneOf(head)];
    const address = heap.listAddress(node, zone, order);
    const entry = this.#lists.get(address) ?? {
      list: { node, zone, order, address, heads: [], broken: undefined, strays: [] },
      heads: [],
    };
    // Xen looks for blocks to be scrubbed at the end of a list.
    entry.heads = first === undefined ? [head, ...entry.heads] : [...entry.heads, head];
    this.#lists.set(address, entry);
    this.#note(head, order);
  }

  #link({ address, broken, heads: before, ...list }: FreeList, heads: readonly number[]): void {
    if (broken === undefined && heads.length === before.length) return;
    const { plan, xen } = this.#context;
    const heap = this.#heap;
    const reason = `${nameOf(list)} linked anew`;
    const pointer = (head: number | undefined): bigint => (head === undefined ? 0n : heap.descriptor(head));
    const link = xen.offsetOf('page_info', 'list');
    for (const [n, head] of heads.entries()) {
      const [next, previous] = [heads[n + 1] ?? NO_BLOCK, heads[n - 1] ?? NO_BLOCK];
      if (heap.next(head) !== next) plan.write(heap.descriptor(head) + link, 4, next, reason);
      if (heap.previous(head) !== previous) plan.write(heap.descriptor(head) + link + 4n, 4, previous, reason);
    }
    plan.write(address, 8, pointer(heads[0]), reason);
    plan.write(address + 8n, 8, pointer(heads.at(-1)), reason);
  }

  /** Who scrubbed a block is gone; a block that is left to be scrubbed is found again. */
  #endScrubbing(): void {
    const { plan, xen } = this.#context;
    const heap = this.#heap;
    for (const head of this.#blocks.keys()) {
      if (!heap.isBeingScrubbed(head)) continue;
      const info = xen.object('page_info', heap.descriptor(head));
      plan.set(info, 'u.free.scrub_state', 0, 'nobody scrubs it any more');
      plan.found(`block at frame 0x${head.toString(16)} was being scrubbed`);
    }
    plan.write(xen.symbol('node_scrubbing'), 8, 0, 'nobody scrubs free memory');
  }

  #availAt(node: number, zone: number): bigint {
    const { xen } = this.#context;
    return xen.memory.u64(xen.symbol('avail'), 8 * node) + BigInt(8 * zone);
  }

  /** Pages on the lists, by node and zone. */
  #freePages(): ReadonlyMap<string, number> {
    const free = new Map<string, number>();
    for (const { list, heads } of this.#lists.values()) {
      const key = `${list.node} ${list.zone}`;
      free.set(key, (free.get(key) ?? 0) + heads.length * 2 ** list.order);
    }
    return free;
  }

  #count(): void {
    const { plan, xen } = this.#context;
    const free = this.#freePages();
    let total = 0;
    for (const node of this.#heap.nodes()) {
      for (let zone = 0; zone < this.#heap.zones; zone++) {
        const pages = free.get(`${node} ${zone}`) ?? 0;
        total += pages;
        const reason = `zone ${zone} has ${pages} free pages`;
        if (plan.write(this.#availAt(node, zone), 8, pages, reason)) plan.found(`${reason}; counted anew`);
      }
      this.#countDirt(node);
    }
    const reason = `${total} pages are free`;
    if (plan.write(xen.symbol('total_avail_pages'), 8, total, reason)) plan.found(`${reason}; counted anew`);
  }

  #countDirt(node: number): void {
    const { plan, xen } = this.#context;
    const heap = this.#heap;
    const ranges: FrameRange[] = [];
    for (const { list, heads } of this.#lists.values()) {
      if (list.node !== node) continue;
      for (const head of heads) {
        const first = heap.firstDirty(head);
        if (first !== heap.clean) ranges.push({ from: head + first, to: head + 2 ** list.order });
      }
    }
    if (ranges.reduce((sum, { from, to }) => sum + to - from, 0) > DIRT_LIMIT) return;
    const pages = ranges.reduce((sum, range) => sum + heap.dirtIn(range).pages, 0);
    const reason = `${pages} pages of node ${node} have to be scrubbed`;
    if (plan.write(xen.symbol('node_need_scrub') + BigInt(8 * node), 8, pages, reason))
      plan.found(`${reason}; counted anew`);
  }

  /** Claims are noted for each domain and in sum (`domain_adjust_tot_pages`). */
  #countClaims(): void {
    const { plan, xen, situation } = this.#context;
    let claimed = 0;
    for (const { object, kind } of situation.domains) if (kind !== 'idle') claimed += object.num('outstanding_pages');
    const reason = `${claimed} pages are claimed`;
    if (plan.write(xen.symbol('outstanding_claims'), 8, claimed, reason)) plan.found(`${reason}; counted anew`);
  }
}

const nameOf = ({ zone, order }: Pick<FreeList, 'zone' | 'order'>): string =>
  `free blocks of zone ${zone}, order ${order}`;
