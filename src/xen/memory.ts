/**
 * Xen's virtual memory, read through a view.
 *
 * Reads look the page up on every access (a view may be a write overlay whose pages change), but translate each
 * virtual page only once. Translations of Xen's image, of the frame table and of the direct map are kept over freezes:
 * Xen never changes them. All others, such as those of its `vmap` area, are good for one view only.
 */
import { NinelivesError } from '../common/errors.js';
import { hex, PAGE_SHIFT, PAGE_SIZE, type PhysicalAddress, physical } from '../x86/address.js';
import { translate } from '../x86/paging.js';
import type { View } from '../x86/view.js';
import { wordsOf } from './words.js';

const PAGE_MASK = BigInt(PAGE_SIZE - 1);
const TWO_32 = 2 ** 32;
const PAGES_PER_TWO_32 = TWO_32 / PAGE_SIZE;
/** One 64-bit value and its halves, the lower first (little-endian hosts only, as QEMU's TCG for x86 guests is used on). */
const WHOLE = new BigUint64Array(1);
const HALVES = new Uint32Array(WHOLE.buffer);
/** First page number of Xen's image; the frame table and the direct map lie above it (Xen 4.17: asm-x86/config.h). */
const FIRST_LASTING_PAGE = Number(0xffff_82d0_4000_0000n >> BigInt(PAGE_SHIFT));

export class XenMemory {
  readonly view: View;
  /** Physical address of the page table that maps Xen (`idle_pg_table`). */
  readonly root: PhysicalAddress;
  readonly #lasting: Map<number, number>;
  readonly #ofThisView = new Map<number, number>();
  /** Upper half of the address where the direct map begins, when it maps frame n at page n; infinite where it does not. */
  #directMapHigh = Number.POSITIVE_INFINITY;
  /** Offset in the page that was last looked up. */
  #at = 0;
  #lastPage = -1;
  #lastFrame = -1;

  constructor(view: View, root: PhysicalAddress, lasting: Map<number, number> = new Map()) {
    this.view = view;
    this.root = root;
    this.#lasting = lasting;
  }

  /** The same address space seen through another view of the same machine, keeping the lasting translations. */
  through(view: View): XenMemory {
    const memory = new XenMemory(view, this.root, this.#lasting);
    memory.#directMapHigh = this.#directMapHigh;
    return memory;
  }

  /** Most of what Xen has lies in its direct map: told where that begins, reads there need no page walk. */
  useDirectMap(start: bigint): void {
    if ((start & 0xffff_ffffn) === 0n) this.#directMapHigh = Number(start >> 32n);
  }

  /** Whether the direct map shows frame n at page n, so that an address in it tells its frame. */
  get hasPlainDirectMap(): boolean {
    return this.#directMapHigh !== Number.POSITIVE_INFINITY;
  }

  /** Whether `address` is mapped, whatever to. */
  maps(address: bigint): boolean {
    return this.#frame(address) >= 0;
  }

  /** Whether `address` is mapped to RAM. */
  isMapped(address: bigint): boolean {
    const frame = this.#frame(address);
    return frame >= 0 && this.view.page(frame) !== undefined;
  }

  /** @throws NL_UNMAPPED when Xen does not map `address`. */
  physicalAddress(address: bigint): PhysicalAddress {
    const frame = this.#frame(address);
    if (frame < 0) throw unmapped(address);
    return physical(frame * PAGE_SIZE + Number(address & PAGE_MASK));
  }

  u8(address: bigint, offset = 0): number {
    return this.#page(address, offset)[this.#at]!;
  }

  /** `offset`, here and below: bytes to add to the address; cheaper than to add them beforehand. 0 to 2^31. */
  u16(address: bigint, offset = 0): number {
    const page = this.#page(address, offset);
    const at = this.#at;
    if (at > PAGE_SIZE - 2) return this.#view(this.bytes(address + BigInt(offset), 2)).getUint16(0, true);
    return page[at]! | (page[at + 1]! << 8);
  }

  u32(address: bigint, offset = 0): number {
    const page = this.#page(address, offset);
    const at = this.#at;
    if (at > PAGE_SIZE - 4) return this.#view(this.bytes(address + BigInt(offset), 4)).getUint32(0, true);
    return word(page, at);
  }

  u64(address: bigint, offset = 0): bigint {
    const page = this.#page(address, offset);
    const at = this.#at;
    if (at > PAGE_SIZE - 8) return this.#view(this.bytes(address + BigInt(offset), 8)).getBigUint64(0, true);
    HALVES[0] = word(page, at);
    HALVES[1] = word(page, at + 4);
    return WHOLE[0]!;
  }

  i64(address: bigint, offset = 0): bigint {
    return BigInt.asIntN(64, this.u64(address, offset));
  }

  i32(address: bigint, offset = 0): number {
    return this.u32(address, offset) | 0;
  }

  /** The whole page that holds `address`, as 32-bit words. @throws NL_UNMAPPED */
  pageWords(address: bigint): Uint32Array {
    return wordsOf(this.#page(address, 0));
  }

  /** The whole page that holds `address`, for passing over a table (see `View.glance`). */
  glanceAt(address: bigint): Uint8Array | undefined {
    const frame = this.#frame(address);
    return frame < 0 ? undefined : this.view.glance(frame);
  }

  /**
   * Calls `act` with each part of a range that lies in one page: its physical address, and where in the range it begins and ends.
   * @throws NL_UNMAPPED where the range is not mapped; the parts before have been acted on then
   */
  eachPart(address: bigint, length: number, act: (at: PhysicalAddress, from: number, to: number) => void): void {
    for (let from = 0; from < length; ) {
      const at = this.physicalAddress(address + BigInt(from));
      const to = Math.min(length, from + PAGE_SIZE - (at % PAGE_SIZE));
      act(at, from, to);
      from = to;
    }
  }

  /** A copy of `length` bytes; may span pages. */
  bytes(address: bigint, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const from = address + BigInt(done);
      const page = this.#page(from, 0);
      const at = this.#at;
      const chunk = Math.min(length - done, PAGE_SIZE - at);
      out.set(page.subarray(at, at + chunk), done);
      done += chunk;
    }
    return out;
  }

  /** A NUL-terminated string of at most `limit` bytes. */
  string(address: bigint, limit = 256): string {
    let text = '';
    for (let i = 0; i < limit; i++) {
      const byte = this.u8(address + BigInt(i));
      if (byte === 0) break;
      text += String.fromCharCode(byte);
    }
    return text;
  }

  #view(bytes: Uint8Array): DataView {
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The page that holds `address + offset`; leaves the place in it in `#at`. */
  #page(address: bigint, offset: number): Uint8Array {
    const frame = this.#frame(address, offset);
    const page = frame < 0 ? undefined : this.view.page(frame);
    if (page === undefined) throw unmapped(address + BigInt(offset));
    return page;
  }

  /**
   * Frame number behind a virtual address; -1 where nothing is mapped. Leaves the place in the page in `#at`. This is where recovery
   * spends its time: an address is taken apart without a bigint being made.
   */
  #frame(address: bigint, offset = 0): number {
    WHOLE[0] = address;
    let low = HALVES[0]! + offset;
    let high = HALVES[1]!;
    if (low >= TWO_32) {
      low -= TWO_32;
      high++;
    }
    this.#at = low & (PAGE_SIZE - 1);
    if (high >= this.#directMapHigh) return (high - this.#directMapHigh) * PAGES_PER_TWO_32 + (low >>> PAGE_SHIFT);
    // Page numbers have 52 bits: exact as a number, which is far cheaper as a key than a bigint.
    const virtualPage = high * PAGES_PER_TWO_32 + (low >>> PAGE_SHIFT);
    if (virtualPage === this.#lastPage) return this.#lastFrame;
    const known = virtualPage >= FIRST_LASTING_PAGE ? this.#lasting : this.#ofThisView;
    let frame = known.get(virtualPage);
    if (frame === undefined) {
      const found = translate(this.view, this.root, BigInt(virtualPage) << BigInt(PAGE_SHIFT));
      if (found === undefined) return -1;
      frame = Math.floor(found.physical / PAGE_SIZE);
      known.set(virtualPage, frame);
    }
    this.#lastPage = virtualPage;
    this.#lastFrame = frame;
    return frame;
  }
}

const word = (page: Uint8Array, at: number): number =>
  (page[at]! | (page[at + 1]! << 8) | (page[at + 2]! << 16) | (page[at + 3]! << 24)) >>> 0;

function unmapped(address: bigint): NinelivesError {
  return new NinelivesError('NL_UNMAPPED', `Xen does not map ${hex(address)}`);
}
