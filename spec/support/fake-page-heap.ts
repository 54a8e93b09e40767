/**
 * A page heap in a synthetic Xen, and the allocator's two operations as Xen 4.17 makes them (common/page_alloc.c), store by
 * store: each can be dropped after any of its stores.
 */
import { PageHeap } from '../../src/xen/page-heap.js';
import type { Xen } from '../../src/xen/xen.js';
import type { FakeXen } from './fake-xen.js';

const NO_BLOCK = 0xffff_ffff;
/** Free memory of the synthetic machine: frames that its own heap does not reach. */
export const FREE = { from: 6144, to: 8192 } as const;

export class FakePageHeap {
  readonly #fake: FakeXen;
  readonly #xen: Xen;
  readonly #reader: PageHeap;
  readonly #free: bigint;
  readonly #needScrub: bigint;

  constructor(fake: FakeXen, blocks: readonly (readonly [head: number, order: number])[] = [[FREE.from, 11]]) {
    this.#fake = fake;
    this.#xen = fake.xen();
    this.#reader = new PageHeap(this.#xen);
    this.#free = BigInt(fake.profile.constant('PGC_state_free'));
    this.#needScrub = BigInt(fake.profile.constant('PGC_need_scrub'));
    fake.put(fake.symbol('_heap'), 8, fake.alloc(16 * 41 * 19));
    fake.put(fake.symbol('avail'), 8, fake.alloc(8 * 41));
    fake.put(fake.symbol('memnodemap'), 8, fake.alloc(16));
    fake.put(fake.symbol('memnode_shift'), 4, 63);
    for (const [head, order] of blocks) {
      for (let frame = head; frame < head + 2 ** order; frame++) this.set(frame, 'count_info', this.#free);
      for (const _ of this.#add(head, order, this.clean));
      this.#count(head, 2 ** order);
    }
  }

  get clean(): number {
    return 2 ** 19 - 1;
  }

  reader(xen?: Xen): PageHeap {
    return xen === undefined ? this.#reader : new PageHeap(xen);
  }

  list(order: number): bigint {
    return this.reader().listAddress(0, 13, order);
  }

  set(frame: number, field: string, value: bigint | number): void {
    this.#fake.set('page_info', this.reader().descriptor(frame), field, value);
  }

  get(frame: number, field: string): bigint {
    const info = this.#xen.object('page_info', this.reader().descriptor(frame));
    return info.layout.field(field).size === 8 ? info.u64(field) : BigInt(info.num(field));
  }

  /** Takes a block of `order`; the value of the last step is its first frame. Yields what a register holds, after each store. */
  *alloc(order: number): Generator<number, number | undefined> {
    let from = order;
    while (from < 19 && this.#first(from) === undefined) from++;
    const found = this.#first(from);
    if (found === undefined) return undefined;
    let block = found;
    let dirty = Number(this.get(block, 'u.free.first_dirty'));
    for (const _ of this.#remove(block, from)) yield block;
    while (from !== order) {
      from--;
      for (const _ of this.#add(block, from, dirty < 2 ** from ? dirty : this.clean)) yield block;
      block += 2 ** from;
      if (dirty !== this.clean) dirty = Math.max(0, dirty - 2 ** from);
      yield block;
    }
    for (const _ of this.#counts(block, -(2 ** order))) yield block;
    let scrubbed = 0;
    for (let frame = block; frame < block + 2 ** order; frame++) {
      if ((this.get(frame, 'count_info') & this.#needScrub) !== 0n) scrubbed++;
      this.set(frame, 'count_info', 0);
      yield block;
      this.set(frame, 'u.inuse.type_info', 0);
      this.set(frame, 'v.inuse._domain', 0);
      yield block;
    }
    const at = this.#fake.symbol('node_need_scrub');
    this.#fake.put(at, 8, this.#xen.memory.u64(at) - BigInt(scrubbed));
    return block;
  }

  /** Gives a block back, of the domain with number `owner`. */
  *free(head: number, order: number, scrub: boolean): Generator<number, undefined> {
    for (let frame = head; frame < head + 2 ** order; frame++) {
      this.set(frame, 'count_info', this.#free);
      yield head;
      this.set(frame, 'u.free.need_tlbflush', 1);
      yield head;
      this.set(frame, 'v.inuse._domain', 0);
      yield head;
      if (scrub) this.set(frame, 'count_info', this.#free | this.#needScrub);
      yield head;
    }
    for (const _ of this.#counts(head, 2 ** order)) yield head;
    if (scrub) {
      const at = this.#fake.symbol('node_need_scrub');
      this.#fake.put(at, 8, this.#xen.memory.u64(at) + BigInt(2 ** order));
    }
    this.set(head, 'u.free.first_dirty', scrub ? 0 : this.clean);
    yield head;
    let [block, size] = [head, order];
    for (; size < 18; size++) {
      const upper = (block & (2 ** size)) !== 0;
      const buddy = upper ? block - 2 ** size : block + 2 ** size;
      if (buddy >= FREE.to || this.#state(buddy) !== this.#free || Number(this.get(buddy, 'v.free.order')) !== size)
        break;
      for (const _ of this.#remove(buddy, size)) yield block;
      const [low, high] = upper ? [buddy, block] : [block, buddy];
      const dirty = Number(this.get(high, 'u.free.first_dirty'));
      if (Number(this.get(low, 'u.free.first_dirty')) === this.clean && dirty !== this.clean)
        this.set(low, 'u.free.first_dirty', 2 ** size + dirty);
      block = low;
      yield block;
    }
    for (const _ of this.#add(block, size, Number(this.get(block, 'u.free.first_dirty')))) yield block;
    return undefined;
  }

  #state(frame: number): bigint {
    return this.get(frame, 'count_info') & BigInt(this.#fake.profile.constant('PGC_state'));
  }

  #first(order: number): number | undefined {
    const pointer = this.#xen.memory.u64(this.list(order));
    return pointer === 0n ? undefined : this.reader().frameOf(pointer);
  }

  *#add(frame: number, order: number, dirty: number): Generator<undefined> {
    this.set(frame, 'v.free.order', order);
    yield undefined;
    this.set(frame, 'u.free.first_dirty', dirty);
    yield undefined;
    const list = this.list(order);
    const descriptor = this.reader().descriptor(frame);
    const ends = [0n, 8n].map((at) => this.reader().frameOf(this.#xen.memory.u64(list + at)));
    const empty = ends[0] === -1;
    const last = dirty !== this.clean;
    const [inner, outer] = last ? ['list.prev', 'list.next'] : ['list.next', 'list.prev'];
    const neighbour = last ? ends[1]! : ends[0]!;
    this.set(frame, outer, NO_BLOCK);
    yield undefined;
    this.set(frame, inner, empty ? NO_BLOCK : neighbour);
    yield undefined;
    if (empty) this.#fake.put(list + (last ? 0n : 8n), 8, descriptor);
    else this.set(neighbour, outer, frame);
    yield undefined;
    this.#fake.put(list + (last ? 8n : 0n), 8, descriptor);
    yield undefined;
  }

  *#remove(frame: number, order: number): Generator<undefined> {
    const list = this.list(order);
    const [first, last] = [0n, 8n].map((at) => this.reader().frameOf(this.#xen.memory.u64(list + at)));
    const [next, previous] = [Number(this.get(frame, 'list.next')), Number(this.get(frame, 'list.prev'))];
    if (first === frame && last === frame) {
      this.#fake.put(list, 8, 0);
      yield undefined;
      this.#fake.put(list + 8n, 8, 0);
    } else if (first === frame) {
      this.set(next, 'list.prev', NO_BLOCK);
      yield undefined;
      this.#fake.put(list, 8, this.reader().descriptor(next));
    } else if (last === frame) {
      this.set(previous, 'list.next', NO_BLOCK);
      yield undefined;
      this.#fake.put(list + 8n, 8, this.reader().descriptor(previous));
    } else {
      this.set(next, 'list.prev', previous);
      yield undefined;
      this.set(previous, 'list.next', next);
    }
    yield undefined;
  }

  *#counts(frame: number, pages: number): Generator<undefined> {
    const { memory } = this.#xen;
    const avail = memory.u64(this.#fake.symbol('avail')) + BigInt(8 * this.reader().zoneOf(frame));
    const total = this.#fake.symbol('total_avail_pages');
    this.#fake.put(avail, 8, memory.u64(avail) + BigInt(pages));
    yield undefined;
    this.#fake.put(total, 8, memory.u64(total) + BigInt(pages));
    yield undefined;
  }

  #count(frame: number, pages: number): void {
    for (const _ of this.#counts(frame, pages));
  }
}
