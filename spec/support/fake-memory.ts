/** Physical memory with page tables, made by hand: what a synthetic machine in a test consists of. */
import { PAGE_SIZE } from '../../src/x86/address.js';

const LARGE = 2 * 1024 * 1024;
/** Present, writable, for ring 3 as well. */
const ENTRY_FLAGS = 7n;
const LARGE_FLAG = 0x80n;

export class FakeMemory {
  readonly #pages = new Map<number, Uint8Array>();
  readonly #zero = new Uint8Array(PAGE_SIZE);
  #nextTable: number;

  /** @param firstTable physical address from which page tables are taken; everything behind it must be free */
  constructor(
    readonly size: number,
    firstTable: number,
  ) {
    this.#nextTable = firstTable;
  }

  page(frame: number): Uint8Array | undefined {
    return this.#pages.get(frame) ?? (frame >= 0 && frame * PAGE_SIZE < this.size ? this.#zero : undefined);
  }

  write(address: number, bytes: ArrayLike<number>): void {
    for (let done = 0; done < bytes.length; ) {
      const at = address + done;
      const page = this.#own(Math.floor(at / PAGE_SIZE));
      const chunk = Math.min(bytes.length - done, PAGE_SIZE - (at % PAGE_SIZE));
      for (let i = 0; i < chunk; i++) page[(at % PAGE_SIZE) + i] = bytes[done + i]!;
      done += chunk;
    }
  }

  /** A zeroed page for a page table: its physical address. */
  newTable(): number {
    const table = this.#nextTable;
    this.#nextTable += PAGE_SIZE;
    return table;
  }

  map(root: number, virtual: bigint, physical: number, size: 'page' | 'large'): void {
    const last = size === 'page' ? 1 : 2;
    let table = root;
    for (let level = 4; level > last; level--) {
      const entry = table + index(virtual, level) * 8;
      const there = this.#entry(entry);
      if ((there & 1n) !== 0n) table = Number(there & 0xf_ffff_ffff_f000n);
      else {
        table = this.newTable();
        this.#setEntry(entry, BigInt(table) | ENTRY_FLAGS);
      }
    }
    const flags = size === 'page' ? ENTRY_FLAGS : ENTRY_FLAGS | LARGE_FLAG;
    this.#setEntry(table + index(virtual, last) * 8, BigInt(physical) | flags);
  }

  /** Maps `bytes` from `virtual` to `physical` by large pages. */
  mapLarge(root: number, virtual: bigint, physical: number, bytes: number): void {
    for (let done = 0; done < bytes; done += LARGE) this.map(root, virtual + BigInt(done), physical + done, 'large');
  }

  #own(frame: number): Uint8Array {
    let page = this.#pages.get(frame);
    if (page === undefined) {
      page = new Uint8Array(PAGE_SIZE);
      this.#pages.set(frame, page);
    }
    return page;
  }

  #entry(at: number): bigint {
    const page = this.#own(Math.floor(at / PAGE_SIZE));
    return new DataView(page.buffer).getBigUint64(at % PAGE_SIZE, true);
  }

  #setEntry(at: number, value: bigint): void {
    new DataView(this.#own(Math.floor(at / PAGE_SIZE)).buffer).setBigUint64(at % PAGE_SIZE, value, true);
  }
}

const index = (virtual: bigint, level: number): number => Number((virtual >> BigInt(12 + 9 * (level - 1))) & 0x1ffn);
