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

const PAGE_MASK = BigInt(PAGE_SIZE - 1);
const U64 = 0xffff_ffff_ffff_ffffn;
/** First page number of Xen's image; the frame table and the direct map lie above it (Xen 4.17: asm-x86/config.h). */
const FIRST_LASTING_PAGE = Number(0xffff_82d0_4000_0000n >> BigInt(PAGE_SHIFT));

export class XenMemory {
  readonly view: View;
  /** Physical address of the page table that maps Xen (`idle_pg_table`). */
  readonly root: PhysicalAddress;
  readonly #lasting: Map<number, number>;
  readonly #ofThisView = new Map<number, number>();
  /** Where the direct map begins, when it maps frame n at page n; `undefined` where it is compressed. */
  #directMap: bigint | undefined;
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
    memory.#directMap = this.#directMap;
    return memory;
  }

  /** Most of what Xen has lies in its direct map: told where that begins, reads there need no page walk. */
  useDirectMap(start: bigint): void {
    this.#directMap = start;
  }

  /** Whether the direct map shows frame n at page n, so that an address in it tells its frame. */
  get hasPlainDirectMap(): boolean {
    return this.#directMap !== undefined;
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

  u8(address: bigint): number {
    return this.#page(address)[this.#at]!;
  }

  u16(address: bigint): number {
    const page = this.#page(address);
    const at = this.#at;
    if (at > PAGE_SIZE - 2) return this.#view(this.bytes(address, 2)).getUint16(0, true);
    return page[at]! | (page[at + 1]! << 8);
  }

  u32(address: bigint): number {
    const page = this.#page(address);
    const at = this.#at;
    if (at > PAGE_SIZE - 4) return this.#view(this.bytes(address, 4)).getUint32(0, true);
    return (page[at]! | (page[at + 1]! << 8) | (page[at + 2]! << 16) | (page[at + 3]! << 24)) >>> 0;
  }

  u64(address: bigint): bigint {
    const page = this.#page(address);
    const at = this.#at;
    if (at > PAGE_SIZE - 8) return this.#view(this.bytes(address, 8)).getBigUint64(0, true);
    return new DataView(page.buffer, page.byteOffset + at, 8).getBigUint64(0, true);
  }

  i64(address: bigint): bigint {
    return BigInt.asIntN(64, this.u64(address));
  }

  i32(address: bigint): number {
    return this.u32(address) | 0;
  }

  /** The whole page that holds `address`, for passing over a table (see `View.glance`). */
  glanceAt(address: bigint): Uint8Array | undefined {
    const frame = this.#frame(address);
    return frame < 0 ? undefined : this.view.glance(frame);
  }

  /** A copy of `length` bytes; may span pages. */
  bytes(address: bigint, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const from = address + BigInt(done);
      const page = this.#page(from);
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

  /** The page that holds `address`; leaves the offset in it in `#at`. */
  #page(address: bigint): Uint8Array {
    // Nearly all reads end here. One subtraction of bigints; the distance is exact as a number.
    if (this.#directMap !== undefined && address >= this.#directMap) {
      const distance = Number(address - this.#directMap);
      this.#at = distance % PAGE_SIZE;
      const page = this.view.page(Math.floor(distance / PAGE_SIZE));
      if (page === undefined) throw unmapped(address);
      return page;
    }
    this.#at = Number(address & PAGE_MASK);
    const frame = this.#frame(address);
    const page = frame < 0 ? undefined : this.view.page(frame);
    if (page === undefined) throw unmapped(address);
    return page;
  }

  /** Frame number behind a virtual address; -1 where nothing is mapped. */
  #frame(address: bigint): number {
    // Page numbers have 52 bits: exact as a number, which is far cheaper as a key than a bigint.
    const virtualPage = Number((address & U64) >> BigInt(PAGE_SHIFT));
    if (virtualPage === this.#lastPage) return this.#lastFrame;
    if (this.#directMap !== undefined && address >= this.#directMap) {
      this.#lastPage = virtualPage;
      this.#lastFrame = Number((address - this.#directMap) >> BigInt(PAGE_SHIFT));
      return this.#lastFrame;
    }
    const known = virtualPage >= FIRST_LASTING_PAGE ? this.#lasting : this.#ofThisView;
    let frame = known.get(virtualPage);
    if (frame === undefined) {
      const found = translate(this.view, this.root, address & U64);
      if (found === undefined) return -1;
      frame = Math.floor(found.physical / PAGE_SIZE);
      known.set(virtualPage, frame);
    }
    this.#lastPage = virtualPage;
    this.#lastFrame = frame;
    return frame;
  }
}

function unmapped(address: bigint): NinelivesError {
  return new NinelivesError('NL_UNMAPPED', `Xen does not map ${hex(address)}`);
}
