/** Page-frame descriptors: Xen's `frame_table`, one `struct page_info` of 32 bytes for each frame of RAM. */
import { PAGE_SIZE } from '../x86/address.js';
import type { XenObject } from './object.js';
import { wordsOf } from './words.js';
import type { Xen } from './xen.js';

/** Descriptor of the frame with this number. */
export function pageInfo(xen: Xen, frame: number): XenObject {
  return xen.object('page_info', frameTable(xen) + BigInt(frame * xen.sizeOf('page_info')));
}

/** The same for a machine frame number that a guest gave; `undefined` when there is no such frame. */
export function translatePageFrame(xen: Xen, frame: bigint): XenObject | undefined {
  return frame < BigInt(frameCount(xen)) ? pageInfo(xen, Number(frame)) : undefined;
}

export const frameTable = (xen: Xen): bigint => BigInt(xen.profile.constant('FRAMETABLE_VIRT_START'));

/** Number of the last frame, plus one. */
export const frameCount = (xen: Xen): number => Number(xen.memory.u64(xen.symbol('max_page')));

/** The largest order of a piece of free memory (Xen 4.17, xen/mm.h: MAX_ORDER). */
const MAX_ORDER = 20;
const SUPERPAGE_SIZE = 2 ** 21;
/** No words: a descriptor of a frame that does not exist. */
const NOWHERE = new Uint32Array(0);

/** What is looked for in upper halves of `type_info`, as data: a function would have to be called for each frame of RAM. */
export interface WantedFrames {
  /** One of these bits is set, ... */
  readonly anyOf: number;
  /** ... or the type, the uppermost 3 bits, is one of these (bit n for type n) and none of those bits is set. */
  readonly types: number;
  readonly noneOf: number;
}

/** Whether one word is what is looked for. */
export const isWanted = (word: number, { anyOf, types, noneOf }: WantedFrames): boolean =>
  (word & anyOf) !== 0 || (((types >>> (word >>> 29)) & 1) !== 0 && (word & noneOf) === 0);

/**
 * The descriptors as 32-bit words, for whoever looks at many of them: no bigint, no object for each. Good for one view. What is
 * looked at is glanced at only (see `View.glance`).
 */
export class FrameWords {
  /** Number of the last frame, plus one. */
  readonly count: number;
  readonly #xen: Xen;
  readonly #table: bigint;
  /** Words of a descriptor, and in it of the upper halves of `count_info` and `type_info` and of `v.free.order`. */
  readonly #stride: number;
  readonly #countAt: number;
  readonly #typeAt: number;
  readonly #orderAt: number;
  readonly #perPage: number;
  readonly #perSuperpage: number;
  readonly #stateMask: number;
  readonly #stateFree: number;
  #page = -1;
  #words: Uint32Array = NOWHERE;
  #kept = -1;

  constructor(xen: Xen) {
    const layout = xen.profile.struct('page_info');
    this.#xen = xen;
    this.#table = frameTable(xen);
    this.count = frameCount(xen);
    this.#stride = layout.size / 4;
    this.#countAt = layout.field('count_info').offset / 4 + 1;
    this.#typeAt = layout.field('u.inuse.type_info').offset / 4 + 1;
    this.#orderAt = layout.field('v.free.order').offset / 4;
    this.#perPage = PAGE_SIZE / layout.size;
    this.#perSuperpage = SUPERPAGE_SIZE / layout.size;
    const upper = (name: string): number => Number(BigInt(xen.profile.constant(name)) >> 32n);
    this.#stateMask = upper('PGC_state');
    this.#stateFree = upper('PGC_state_free');
  }

  /** The upper half of a frame's `type_info` while it is in use; 0 otherwise, when it holds other things. */
  typeOf(frame: number): number {
    const words = this.#wordsOf(Math.floor(frame / this.#perPage));
    const at = (frame % this.#perPage) * this.#stride;
    return at >= words.length || (words[at + this.#countAt]! & this.#stateMask) !== 0 ? 0 : words[at + this.#typeAt]!;
  }

  /** The upper half of a frame's `count_info`: its state and flags. 0, as of a frame in use, where there is no descriptor. */
  countOf(frame: number): number {
    const words = this.#wordsOf(Math.floor(frame / this.#perPage));
    const at = (frame % this.#perPage) * this.#stride;
    return at >= words.length ? 0 : words[at + this.#countAt]!;
  }

  /**
   * Frames in use whose upper half of `type_info` is what is looked for.
   * @param memory `all`: every descriptor is looked at, which takes longer the more RAM there is. `allocated`: pieces of free
   *   memory are skipped by the size that their first descriptor tells, which may only be believed while nobody was
   *   dropped inside the page allocator.
   */
  where({ anyOf, types, noneOf }: WantedFrames, memory: 'all' | 'allocated'): number[] {
    const found: number[] = [];
    // Whether a free frame seen next is the first of its piece: one in the middle has an order of an earlier life.
    let first = true;
    for (let frame = 0; frame < this.count; ) {
      const page = Math.floor(frame / this.#perPage);
      const words = this.#wordsOf(page);
      const end = Math.min((page + 1) * this.#perPage, this.count);
      if (words.length === 0) {
        // Where there is a hole in RAM the table has one too, of whole superpages, and no piece of free memory spans it; a
        // capsule has some of the table's pages only.
        const hole = frame % this.#perSuperpage === 0 && !this.#xen.memory.maps(this.#addressOf(page));
        first = hole;
        frame = hole ? frame + this.#perSuperpage : end;
        continue;
      }
      for (let at = (frame % this.#perPage) * this.#stride; frame < end; frame++, at += this.#stride) {
        const state = words[at + this.#countAt]! & this.#stateMask;
        if (state !== this.#stateFree) first = true;
        if (state === 0) {
          const word = words[at + this.#typeAt]!;
          if ((word & anyOf) !== 0 || (((types >>> (word >>> 29)) & 1) !== 0 && (word & noneOf) === 0))
            found.push(frame);
        } else if (memory === 'allocated' && first && state === this.#stateFree) {
          const order = words[at + this.#orderAt]!;
          first = order <= MAX_ORDER && frame % 2 ** order === 0;
          if (order === 0 || !first) continue;
          frame += 2 ** order;
          break;
        }
      }
    }
    return found;
  }

  /** A descriptor was written to: what is remembered of it is forgotten. */
  changed(): void {
    this.#page = -1;
  }

  /** Has a capsule keep a descriptor that was glanced at and matters. */
  keep(frame: number): void {
    const page = Math.floor(frame / this.#perPage);
    if (page === this.#kept) return;
    this.#kept = page;
    this.#xen.memory.isMapped(this.#addressOf(page));
  }

  /** Where a page of the table is. */
  #addressOf(page: number): bigint {
    return this.#table + BigInt(page * PAGE_SIZE);
  }

  #wordsOf(page: number): Uint32Array {
    if (page === this.#page) return this.#words;
    const bytes = this.#xen.memory.glanceAt(this.#addressOf(page));
    this.#page = page;
    this.#words = bytes === undefined ? NOWHERE : wordsOf(bytes);
    return this.#words;
  }
}
