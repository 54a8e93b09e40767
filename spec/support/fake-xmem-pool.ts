/**
 * The pool of `xmalloc` in a synthetic Xen, and its two operations as Debian's Xen 4.17 makes them (common/xmalloc_tlsf.c; the order
 * of stores is that of xmem_pool_alloc and xmem_pool_free in the binary), store by store: each can be dropped after any of its
 * stores. A region without a block in use stays in the pool here; Xen gives its page back to the heap.
 */
import type { Xen } from '../../src/xen/xen.js';
import type { FakeXen } from './fake-xen.js';

const HEADER = 16n;
const PAGE = 4096n;

export class FakeXmemPool {
  readonly pages: bigint[] = [];
  readonly pool: bigint;
  readonly #fake: FakeXen;
  readonly #xen: Xen;

  constructor(fake: FakeXen, pages = 2) {
    this.#fake = fake;
    this.#xen = fake.xen();
    this.pool = fake.alloc(fake.profile.struct('xmem_pool').size, 4096);
    fake.put(fake.symbol('xenpool'), 8, this.pool);
    fake.set('xmem_pool', this.pool, 'grow_size', PAGE);
    for (let n = 0; n < pages; n++) {
      const page = fake.alloc(4096, 4096);
      this.pages.push(page);
      const frame = (page - BigInt(fake.profile.constant('DIRECTMAP_VIRT_START'))) / PAGE;
      const descriptor = BigInt(fake.profile.constant('FRAMETABLE_VIRT_START')) + 32n * frame;
      fake.set('page_info', descriptor, 'count_info', BigInt(fake.profile.constant('PGC_xen_heap')));
      fake.put(page + 8n, 4, Number(PAGE - 2n * HEADER) | 1);
      fake.put(page + PAGE - HEADER, 8, page);
      fake.put(page + PAGE - HEADER + 8n, 4, 2);
      for (const _ of this.#insert(page));
    }
  }

  /** Takes a piece; the value of the last step is its block. Yields the block it works on. `size`: multiple of 16. */
  *alloc(size: number): Generator<bigint, bigint | undefined> {
    const found = this.#find(size);
    if (found === undefined) return undefined;
    const index = this.#indexOf(found);
    const whole = this.#size(found);
    const next = this.#next(found);
    const follower = this.#u64(found + HEADER + 8n);
    this.#put(this.#head(index), 8, follower);
    yield found;
    if (follower !== 0n) this.#put(follower + HEADER, 8, 0n);
    else yield* this.#unmark(index, found);
    yield found;
    yield* this.#setLinks(found, 0n, 0n, found);
    if (whole - size >= 32) {
      const rest = found + HEADER + BigInt(size);
      this.#put(rest, 8, found);
      yield found;
      this.#put(rest + 8n, 4, (whole - size - 16) | 1);
      yield found;
      this.#put(next, 8, rest);
      yield found;
      yield* this.#insert(rest, found);
      this.#put(found + 8n, 4, size | (this.#word(found) & 2));
    } else {
      this.#put(next + 8n, 4, this.#word(next) & ~2);
      yield found;
      this.#put(found + 8n, 4, this.#word(found) & ~1);
    }
    yield found;
    return found;
  }

  *free(block: bigint): Generator<bigint, undefined> {
    this.#put(block + 8n, 4, this.#word(block) | 1);
    yield block;
    yield* this.#setLinks(block, 0n, 0n, block);
    const after = this.#next(block);
    if ((this.#word(after) & 1) !== 0) {
      yield* this.#extract(after, block);
      this.#put(block + 8n, 4, this.#word(block) + this.#size(after) + 16);
      yield block;
    }
    let merged = block;
    if ((this.#word(block) & 2) !== 0) {
      merged = this.#u64(block);
      yield* this.#extract(merged, block);
      this.#put(merged + 8n, 4, this.#word(merged) + this.#size(block) + 16);
      yield block;
    }
    const next = this.#next(merged);
    this.#put(next, 8, merged);
    yield block;
    yield* this.#insert(merged, block);
    this.#put(next + 8n, 4, this.#word(next) | 2);
    yield block;
    return undefined;
  }

  #find(size: number): bigint | undefined {
    for (let index = 0; index < 24 * 32; index++) {
      for (let at = this.#u64(this.#head(index)); at !== 0n; at = 0n) if (this.#size(at) >= size) return at;
    }
    return undefined;
  }

  *#insert(block: bigint, yielded = block): Generator<bigint> {
    const index = this.#indexOf(block);
    const head = this.#u64(this.#head(index));
    yield* this.#setLinks(block, 0n, head, yielded);
    if (head !== 0n) this.#put(head + HEADER, 8, block);
    yield yielded;
    this.#put(this.#head(index), 8, block);
    yield yielded;
    const second = this.pool + 4n + BigInt(4 * (index >> 5));
    this.#put(second, 4, (this.#xen.memory.u32(second) | (1 << (index & 31))) >>> 0);
    yield yielded;
    this.#put(this.pool, 4, (this.#xen.memory.u32(this.pool) | (1 << (index >> 5))) >>> 0);
    yield yielded;
  }

  *#extract(block: bigint, yielded: bigint): Generator<bigint> {
    const index = this.#indexOf(block);
    const [previous, next] = [this.#u64(block + HEADER), this.#u64(block + HEADER + 8n)];
    if (next !== 0n) this.#put(next + HEADER, 8, previous);
    yield yielded;
    if (previous !== 0n) this.#put(previous + HEADER + 8n, 8, next);
    yield yielded;
    if (this.#u64(this.#head(index)) === block) {
      this.#put(this.#head(index), 8, next);
      yield yielded;
      if (next === 0n) yield* this.#unmark(index, yielded);
    }
    yield* this.#setLinks(block, 0n, 0n, yielded);
  }

  *#setLinks(block: bigint, previous: bigint, next: bigint, yielded: bigint): Generator<bigint> {
    this.#put(block + HEADER, 8, previous);
    yield yielded;
    this.#put(block + HEADER + 8n, 8, next);
    yield yielded;
  }

  *#unmark(index: number, yielded: bigint): Generator<bigint> {
    const second = this.pool + 4n + BigInt(4 * (index >> 5));
    this.#put(second, 4, (this.#xen.memory.u32(second) & ~(1 << (index & 31))) >>> 0);
    yield yielded;
    if (this.#xen.memory.u32(second) !== 0) return;
    this.#put(this.pool, 4, (this.#xen.memory.u32(this.pool) & ~(1 << (index >> 5))) >>> 0);
    yield yielded;
  }

  #indexOf(block: bigint): number {
    const size = this.#size(block);
    if (size < 128) return size / 4;
    const log = Math.floor(Math.log2(size));
    return (log - 6) * 32 + Math.floor(size / 2 ** (log - 5)) - 32;
  }

  #head(index: number): bigint {
    return this.#fake.fieldAt('xmem_pool', this.pool, 'matrix') + BigInt(8 * index);
  }

  #next(block: bigint): bigint {
    return block + HEADER + BigInt(this.#size(block));
  }

  #size(block: bigint): number {
    return this.#word(block) & ~7;
  }

  #word(block: bigint): number {
    return this.#xen.memory.u32(block, 8);
  }

  #u64(address: bigint): bigint {
    return this.#xen.memory.u64(address);
  }

  #put(address: bigint, size: 4 | 8, value: bigint | number): void {
    this.#fake.put(address, size, value);
  }
}
