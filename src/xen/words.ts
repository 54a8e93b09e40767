/** Long tables read as 32-bit words, a page looked up at a time: no bigint is made for what is merely passed over. */
import { PAGE_SIZE } from '../x86/address.js';
import type { XenMemory } from './memory.js';

const PAGE_MASK = PAGE_SIZE - 1;
/** Bytes of a word. */
export const WORD_SIZE = 4;

/** A page as 32-bit words. */
export const wordsOf = (page: Uint8Array): Uint32Array =>
  new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / WORD_SIZE);

/** Words of a table. Good for one view, until it is written to. */
export class WordTable {
  readonly #memory: XenMemory;
  /** Beginning of the page in which the table begins, and where in that page it does. */
  readonly #firstPage: bigint;
  readonly #start: number;
  #page = -1;
  #words: Uint32Array = new Uint32Array(0);

  /** @param address of the table: a multiple of 4 */
  constructor(memory: XenMemory, address: bigint) {
    this.#memory = memory;
    this.#start = Number(address & BigInt(PAGE_MASK));
    this.#firstPage = address - BigInt(this.#start);
  }

  /**
   * The word so many bytes into the table.
   * @param offset a multiple of 4
   * @throws NL_UNMAPPED
   */
  at(offset: number): number {
    const at = this.#start + offset;
    const page = Math.floor(at / PAGE_SIZE);
    if (page !== this.#page) {
      this.#words = this.#memory.pageWords(this.#firstPage + BigInt(page * PAGE_SIZE));
      this.#page = page;
    }
    return this.#words[(at & PAGE_MASK) >>> 2]!;
  }
}
