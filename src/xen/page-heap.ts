/**
 * Xen's page allocator (Xen 4.17, common/page_alloc.c): free memory is kept in blocks of 2^order pages, each on the list of its
 * NUMA node, its zone (how many bits its frame number has) and its order. Links are numbers of frames and stand in the
 * descriptor of a block's first page, its head; a list has pointers to its first and last head.
 */
import { NinelivesError } from '../common/errors.js';
import { FrameWords, frameTable } from './frames.js';
import { isHeld } from './locks.js';
import type { XenMemory } from './memory.js';
import type { Xen } from './xen.js';

/** The link of the last, and backwards of the first, block of a list (xen/mm.h: PAGE_LIST_NULL). */
export const NO_BLOCK = 0xffff_ffff;
/** More blocks than this are not looked at: a recovery is not to take longer the more memory is in pieces. */
const MAX_BLOCKS = 32_768;
const MAX_NODES = 64;

/** Whether somebody holds the allocator's lock, or waits for it: then descriptions of free memory may be half changed. */
export const isAllocatorLocked = (xen: Xen): boolean =>
  isHeld(xen, { kind: 'spinlock', address: xen.symbol('heap_lock'), owner: '', path: 'heap_lock' });

export interface FreeList {
  readonly node: number;
  readonly zone: number;
  readonly order: number;
  /** `struct page_list_head`. */
  readonly address: bigint;
  /** Heads in their order. Of a broken list: those that can be told from one direction or the other, unscrubbed ones last. */
  readonly heads: readonly number[];
  readonly broken: string | undefined;
  /** Free frames that it leads to and that are no blocks of this list. */
  readonly strays: readonly number[];
}

export interface HeapReading {
  /** Every list that has a block or is broken. */
  readonly lists: readonly FreeList[];
  /** Whether there were too many blocks to read them all. */
  readonly cutShort: boolean;
}

/** A part of memory, in frames. */
export interface FrameRange {
  readonly from: number;
  /** One past its last frame. */
  readonly to: number;
}

export class PageHeap {
  readonly zones: number;
  readonly maxOrder: number;
  /** `first_dirty` of a block in which nothing has to be scrubbed. */
  readonly clean: number;
  readonly words: FrameWords;
  readonly #xen: Xen;
  readonly #memory: XenMemory;
  readonly #table: bigint;
  readonly #size: number;
  readonly #at: { list: number; count: number; firstDirty: number; scrubState: number; order: number };
  readonly #state: number;
  readonly #stateFree: number;
  readonly #needScrub: number;

  constructor(xen: Xen) {
    const layout = xen.profile.struct('page_info');
    const upper = (name: string): number => Number(BigInt(xen.profile.constant(name)) >> 32n);
    const heap = dimensions(xen);
    this.zones = heap.zones;
    this.maxOrder = heap.orders - 1;
    this.clean = 2 ** heap.orders - 1;
    this.words = new FrameWords(xen);
    this.#xen = xen;
    this.#memory = xen.memory;
    this.#table = frameTable(xen);
    this.#size = layout.size;
    this.#at = {
      list: layout.field('list').offset,
      count: layout.field('count_info').offset,
      firstDirty: layout.field('u.free.first_dirty').offset,
      scrubState: layout.field('u.free.scrub_state').offset,
      order: layout.field('v.free.order').offset,
    };
    this.#state = upper('PGC_state');
    this.#stateFree = upper('PGC_state_free');
    this.#needScrub = upper('PGC_need_scrub');
  }

  /** Nodes that have memory. */
  nodes(): number[] {
    const table = this.#xen.symbol('_heap');
    return Array.from({ length: MAX_NODES }, (_, node) => node).filter(
      (node) => this.#memory.u64(table, 8 * node) !== 0n,
    );
  }

  /** Follows all lists both ways. */
  read(): HeapReading {
    const lists: FreeList[] = [];
    let left = MAX_BLOCKS;
    for (const node of this.nodes()) {
      const bytes = this.#memory.bytes(this.#heapOf(node), 16 * this.zones * (this.maxOrder + 1));
      const ends = new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
      for (let zone = 0; zone < this.zones; zone++) {
        for (let order = 0; order <= this.maxOrder; order++) {
          const index = zone * (this.maxOrder + 1) + order;
          const [first, last] = [ends[2 * index]!, ends[2 * index + 1]!];
          if (first === 0n && last === 0n) continue;
          const list = this.#list(node, zone, order, first, last, left);
          left -= list.heads.length;
          if (left <= 0) return { lists, cutShort: true };
          lists.push(list);
        }
      }
    }
    return { lists, cutShort: false };
  }

  listAddress(node: number, zone: number, order: number): bigint {
    return this.#heapOf(node) + BigInt(16 * (zone * (this.maxOrder + 1) + order));
  }

  /** `struct page_info`. */
  descriptor(frame: number): bigint {
    return this.#table + BigInt(frame * this.#size);
  }

  /** The zone of free memory: bits of its frame number (`page_to_zone`). */
  zoneOf(frame: number): number {
    return Math.max(1, Math.floor(Math.log2(frame)) + 1);
  }

  /** The node of a frame (`phys_to_nid`). */
  nodeOf(frame: number): number {
    const map = this.#memory.u64(this.#xen.symbol('memnodemap'));
    const shift = this.#memory.u32(this.#xen.symbol('memnode_shift'));
    return this.#memory.u8(map + BigInt(Math.floor(frame / 2 ** shift)));
  }

  /** Whether a frame is free by its descriptor. Looks only: see `keep`. */
  isFree(frame: number): boolean {
    return (this.words.countOf(frame) & this.#state) === this.#stateFree;
  }

  needsScrub(frame: number): boolean {
    return (this.words.countOf(frame) & this.#needScrub) !== 0;
  }

  /** What must be scrubbed of frames from `from`, which is wanted for a capsule. Frames that need it, and the first one. */
  dirtIn({ from, to }: FrameRange): { readonly pages: number; readonly first: number | undefined } {
    let pages = 0;
    let first: number | undefined;
    for (let frame = from; frame < to; frame++) {
      this.words.keep(frame);
      if (!this.needsScrub(frame)) continue;
      first ??= frame;
      pages++;
    }
    return { pages, first };
  }

  firstDirty(head: number): number {
    return this.#memory.u32(this.descriptor(head), this.#at.firstDirty);
  }

  /** Whether somebody scrubs a block, or is asked to stop. */
  isBeingScrubbed(head: number): boolean {
    return this.#memory.u8(this.descriptor(head), this.#at.scrubState) !== 0;
  }

  next(frame: number): number {
    return this.#memory.u32(this.descriptor(frame), this.#at.list);
  }

  previous(frame: number): number {
    return this.#memory.u32(this.descriptor(frame), this.#at.list + 4);
  }

  /** Why a frame is no block of a list; `undefined` when it is one. */
  defect(frame: number, zone: number, order: number): string | undefined {
    if (frame <= 0 || frame >= this.words.count || !this.#memory.isMapped(this.descriptor(frame)))
      return 'a link leads nowhere';
    const at = this.descriptor(frame);
    const flags = this.#memory.u32(at, this.#at.count + 4);
    const free =
      (flags & ~this.#needScrub) >>> 0 === this.#stateFree >>> 0 && this.#memory.u32(at, this.#at.count) === 0;
    if (!free) return 'a page that is not free is on it';
    if (this.#memory.u32(at, this.#at.order) !== order || frame % 2 ** order !== 0) return 'a block has another order';
    return this.zoneOf(frame) === zone ? undefined : 'a block is of another zone';
  }

  /** The frame that a pointer to a descriptor means; -1 where it is none. */
  frameOf(pointer: bigint): number {
    const frame = Number(pointer - this.#table) / this.#size;
    return Number.isInteger(frame) && frame > 0 && frame < this.words.count ? frame : -1;
  }

  #heapOf(node: number): bigint {
    return this.#memory.u64(this.#xen.symbol('_heap'), 8 * node);
  }

  #list(node: number, zone: number, order: number, first: bigint, last: bigint, limit: number): FreeList {
    const address = this.listAddress(node, zone, order);
    const ends = { first: this.frameOf(first), last: this.frameOf(last) };
    const forwards = this.#follow('next', ends, zone, order, limit);
    if (forwards.broken === undefined)
      return { node, zone, order, address, heads: forwards.heads, broken: undefined, strays: [] };
    const backwards = this.#follow('previous', ends, zone, order, limit);
    const heads = [...new Set([...forwards.heads, ...backwards.heads.reverse()])];
    const dirty = (head: number): boolean => this.firstDirty(head) !== this.clean;
    return {
      node,
      zone,
      order,
      address,
      heads: [...heads.filter((head) => !dirty(head)), ...heads.filter(dirty)],
      broken: forwards.broken,
      strays: [forwards.stray, backwards.stray].filter((frame) => frame !== undefined),
    };
  }

  /**
   * Follows a list in one direction. A block whose link back does not agree is believed when the block behind it, or the
   * end of the list, says that it belongs here: of what a thread dropped while it changed a list leaves, every link is like that.
   */
  #follow(
    direction: 'next' | 'previous',
    ends: { readonly first: number; readonly last: number },
    zone: number,
    order: number,
    limit: number,
  ): { readonly heads: number[]; readonly broken: string | undefined; readonly stray?: number } {
    const onwards = (frame: number): number => (direction === 'next' ? this.next(frame) : this.previous(frame));
    const back = (frame: number): number => (direction === 'next' ? this.previous(frame) : this.next(frame));
    const [from, to] = direction === 'next' ? [ends.first, ends.last] : [ends.last, ends.first];
    const heads: number[] = [];
    const seen = new Set<number>();
    let broken: string | undefined;
    let before = NO_BLOCK;
    for (let frame = from; frame !== NO_BLOCK; frame = onwards(frame)) {
      const defect = seen.has(frame) ? 'it runs in a circle' : this.defect(frame, zone, order);
      if (defect !== undefined) {
        const stray = frame > 0 && frame < this.words.count && this.isFree(frame) ? { stray: frame } : {};
        return { heads, broken: defect, ...stray };
      }
      if (back(frame) !== before) {
        broken ??= 'a backward link differs from the forward one';
        const after = onwards(frame);
        const vouched = frame === to || (this.defect(after, zone, order) === undefined && back(after) === frame);
        if (!vouched) return { heads, broken, stray: frame };
      }
      seen.add(frame);
      heads.push(frame);
      if (heads.length > limit) break;
      before = frame;
    }
    if (before !== to) broken ??= 'its end is not the last block';
    return { heads, broken };
  }
}

function dimensions(xen: Xen): { readonly zones: number; readonly orders: number } {
  const type = xen.profile.variableType('_heap');
  const node = type.kind === 'array' && type.of.kind === 'pointer' ? type.of.to : undefined;
  const zone = node?.kind === 'array' ? node.of : undefined;
  const zones = node?.kind === 'array' ? node.count : undefined;
  const orders = zone?.kind === 'array' ? zone.count : undefined;
  if (zones === undefined || orders === undefined)
    throw new NinelivesError('NL_PROFILE_MISMATCH', 'the profile describes a page heap of another kind');
  return { zones, orders };
}
