/**
 * The pool that `xmalloc` takes small pieces from (Xen 4.17, common/xmalloc_tlsf.c). A region is one page; its blocks follow each
 * other, each with a header (where the block before begins, its own size, whether each of the two is free), and end in a
 * block of size 0. Free blocks hang on lists by size, which are indexed by two levels of bitmaps.
 */
import { PAGE_SIZE } from '../x86/address.js';
import type { FrameWords } from './frames.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

export const FREE_BLOCK = 1;
export const PREVIOUS_FREE = 2;
const FLAGS = 7;
/** Below this size (SMALL_BLOCK) all lists are of the first level. */
const SMALL = 128;
/** Log2 of the lists of a level, and of the largest size that the first level does not have. */
const LISTS_SHIFT = 5;
const FIRST_SHIFT = 6;
const MAX_BLOCKS = 16_384;

export interface PoolBlock {
  readonly address: bigint;
  /** Bytes without the header. */
  readonly size: number;
  readonly free: boolean;
}

export interface PoolList {
  readonly fl: number;
  readonly sl: number;
  readonly blocks: readonly bigint[];
  readonly broken: string | undefined;
}

export class XmemPool {
  readonly object: XenObject;
  /** Bytes of a header. */
  readonly overhead: bigint;
  readonly levels: number;
  readonly listsPerLevel = 2 ** LISTS_SHIFT;
  readonly #xen: Xen;
  readonly #words: FrameWords;
  readonly #directMap: bigint;
  readonly #heapPage: number;

  constructor(xen: Xen, words: FrameWords) {
    this.object = xen.object('xmem_pool', xen.memory.u64(xen.symbol('xenpool')));
    this.overhead = xen.offsetOf('bhdr', 'ptr');
    this.levels = xen.profile.struct('xmem_pool').field('sl_bitmap').size / 4;
    this.#xen = xen;
    this.#words = words;
    this.#directMap = BigInt(xen.profile.constant('DIRECTMAP_VIRT_START'));
    this.#heapPage = Number(BigInt(xen.profile.constant('PGC_xen_heap')) >> 32n);
  }

  /** Whether regions are pages, as those of `xmalloc` are: then a block tells its region. */
  get hasPages(): boolean {
    return this.object.u64('grow_size') === BigInt(PAGE_SIZE);
  }

  /** Every list, empty ones too; in order. */
  lists(): PoolList[] {
    const lists: PoolList[] = [];
    for (let fl = 0; fl < this.levels; fl++)
      for (let sl = 0; sl < this.listsPerLevel; sl++) lists.push(this.#list(fl, sl));
    return lists;
  }

  listIndex(size: number): number {
    if (size < SMALL) return Math.floor(size / (SMALL >> LISTS_SHIFT));
    const log = Math.floor(Math.log2(size));
    return (log - FIRST_SHIFT) * this.listsPerLevel + Math.floor(size / 2 ** (log - LISTS_SHIFT)) - this.listsPerLevel;
  }

  headAddress(fl: number, sl: number): bigint {
    return this.object.at('matrix') + BigInt(8 * (fl * this.listsPerLevel + sl));
  }

  /** Page in which a block lies. */
  pageOf(block: bigint): bigint {
    return block & ~BigInt(PAGE_SIZE - 1);
  }

  /** End of a region: its last header. */
  sentinelOf(page: bigint): bigint {
    return page + BigInt(PAGE_SIZE) - this.overhead;
  }

  /** Whether a page is in use by Xen itself, and by nobody else. */
  isHeapPage(page: bigint): boolean {
    const frame = Number((page - this.#directMap) / BigInt(PAGE_SIZE));
    if (page < this.#directMap || frame >= this.#words.count || this.#words.countOf(frame) !== this.#heapPage)
      return false;
    this.#words.keep(frame);
    return true;
  }

  /** Size and flags as they stand in a header. */
  sizeWord(block: bigint): number {
    return this.#xen.memory.u32(block, 8);
  }

  previousOf(block: bigint): bigint {
    return this.#xen.memory.u64(block);
  }

  /** Links of a free block to the one before it and the one behind it on its list. */
  linksOf(block: bigint): readonly [bigint, bigint] {
    const { memory } = this.#xen;
    return [memory.u64(block, Number(this.overhead)), memory.u64(block, Number(this.overhead) + 8)];
  }

  /**
   * The blocks of a page, without the last one of size 0; `undefined` when it is no region. Of the links back some may be wrong, not most.
   */
  blocksOf(page: bigint): PoolBlock[] | undefined {
    if (!this.isHeapPage(page) || this.previousOf(page) !== 0n) return undefined;
    const blocks: PoolBlock[] = [];
    const end = this.sentinelOf(page);
    let agree = 0;
    let before = 0n;
    let at = page;
    while (at < end) {
      const word = this.sizeWord(at);
      const size = word - (word & FLAGS);
      if (size < 16 || size % 16 !== 0 || size > PAGE_SIZE) return undefined;
      if (this.previousOf(at) === before) agree++;
      blocks.push({ address: at, size, free: (word & FREE_BLOCK) !== 0 });
      before = at;
      at += this.overhead + BigInt(size);
    }
    if (at !== end || this.sizeWord(end) - (this.sizeWord(end) & FLAGS) !== 0) return undefined;
    if (this.previousOf(end) === before) agree++;
    return 2 * agree > blocks.length ? blocks : undefined;
  }

  /** Follows one list. What is no free block of the list's size ends it; links back that do not agree do not. */
  #list(fl: number, sl: number): PoolList {
    const { memory } = this.#xen;
    const blocks: bigint[] = [];
    let broken: string | undefined;
    let before = 0n;
    for (let at = memory.u64(this.headAddress(fl, sl)); at !== 0n; at = memory.u64(at, Number(this.overhead) + 8)) {
      const defect = blocks.includes(at) ? 'it runs in a circle' : this.#defect(at, fl * this.listsPerLevel + sl);
      if (defect !== undefined) return { fl, sl, blocks, broken: defect };
      if (memory.u64(at, Number(this.overhead)) !== before) broken ??= 'a backward link differs from the forward one';
      blocks.push(at);
      if (blocks.length > MAX_BLOCKS) return { fl, sl, blocks, broken: 'it does not end' };
      before = at;
    }
    const marked = (memory.u32(this.object.at('sl_bitmap') + BigInt(4 * fl)) & (1 << sl)) !== 0;
    if (marked !== blocks.length > 0) broken ??= 'its mark in the bitmap is wrong';
    return { fl, sl, blocks, broken };
  }

  #defect(block: bigint, index: number): string | undefined {
    if (block % 16n !== 0n || !this.isHeapPage(this.pageOf(block))) return 'a link leads nowhere';
    const word = this.sizeWord(block);
    if ((word & FREE_BLOCK) === 0) return 'a block that is in use is on it';
    return this.listIndex(word - (word & FLAGS)) === index ? undefined : 'a block has another size';
  }
}
