/**
 * The pool of `xmalloc`, when a thread was dropped that took a piece or gave one back (Xen 4.17, common/xmalloc_tlsf.c). What
 * each block is stands in its header, so the lists and bitmaps follow from the headers, and the headers' links and
 * marks about their neighbours from their sizes. Only the regions that the dropped threads lead to, and those of broken lists,
 * are gone through.
 *
 * A block that looks free and is on no list was being taken or being given back, and the headers do not always tell which; nor does the
 * stack, where the failed function itself may be missing. It stays in use: whoever gave it back may be retried and do so again, and given
 * back twice it would be handed out twice. At worst it is lost. For the same reason a block that was just merged into the one before it
 * is separated again: by its header, which stays where it was. Nothing clears such headers, nor do all users of memory write on all of
 * theirs, so that there may be several. Each gets a part of its own then, and whichever is given back again, does no harm.
 * The pool's statistics (`used_size`, `num_regions`) are not corrected: nothing follows from them.
 */

import { FrameWords } from '../../xen/frames.js';
import { isHeld } from '../../xen/locks.js';
import { eachValue } from '../../xen/touched.js';
import { FREE_BLOCK, type PoolBlock, PREVIOUS_FREE, XmemPool } from '../../xen/xmem-pool.js';
import type { StepContext } from '../step.js';

const POOL_CODE = /xmem_pool|xmalloc|xzalloc|xrealloc|xfree/;

export function repairPool(context: StepContext): void {
  const { xen, frozen, wasIn } = context;
  const address = frozen.memory.u64(frozen.symbol('xenpool'));
  if (address === 0n || !frozen.memory.isMapped(address)) return;
  const lock = frozen.object('xmem_pool', address).at('lock');
  if (!wasIn(POOL_CODE) && !isHeld(frozen, { kind: 'spinlock', address: lock, owner: '', path: 'lock' })) return;
  const pool = new XmemPool(xen, new FrameWords(xen));
  if (pool.hasPages) new PoolRepair(context, pool).run();
}

class PoolRepair {
  readonly #context: StepContext;
  readonly #pool: XmemPool;
  /** Blocks of each list as they are to be, by the list's index; and where each listed block is. */
  readonly #lists: bigint[][] = [];
  readonly #listed = new Map<bigint, number>();
  readonly #listedIn = new Map<bigint, bigint[]>();
  readonly #changed = new Set<number>();

  constructor(context: StepContext, pool: XmemPool) {
    this.#context = context;
    this.#pool = pool;
  }

  run(): void {
    const { plan, scope } = this.#context;
    const pages = this.#touchedPages();
    for (const [index, { blocks, broken }] of this.#pool.lists().entries()) {
      this.#lists.push([...blocks]);
      for (const block of blocks) {
        const page = this.#pool.pageOf(block);
        const others = this.#listedIn.get(page);
        if (others === undefined) this.#listedIn.set(page, [block]);
        else others.push(block);
        this.#listed.set(block, index);
        if (broken !== undefined || scope === 'everything') pages.add(page);
      }
      if (broken === undefined) continue;
      plan.found(`xmalloc's list ${index}: ${broken}; linked anew`);
      this.#changed.add(index);
    }
    for (const page of pages) this.#repairRegion(page);
    for (const index of this.#changed) this.#link(index);
    this.#mark();
  }

  #touchedPages(): Set<bigint> {
    const { frozen, abandoned } = this.#context;
    const start = BigInt(frozen.profile.constant('DIRECTMAP_VIRT_START')) >> 32n;
    const pages = new Set<bigint>();
    eachValue(frozen, abandoned, (high, low) => {
      if (high < Number(start)) return;
      const page = (BigInt(high) << 32n) | BigInt((low & ~0xfff) >>> 0);
      if (this.#pool.isHeapPage(page)) pages.add(page);
    });
    return pages;
  }

  #repairRegion(page: bigint): void {
    const { plan } = this.#context;
    const listed = this.#listedIn.get(page) ?? [];
    const blocks = this.#pool.blocksOf(page);
    if (blocks === undefined) {
      // Its size may be anything: what begins there is lost, and nobody gets it.
      for (const block of listed) this.#unlist(block, 'the region around it cannot be told');
      return;
    }
    const free = new Set(blocks.filter((block) => block.free).map((block) => block.address));
    for (const block of listed) if (!free.has(block)) this.#unlist(block, 'it is part of another block or in use');
    const settled: PoolBlock[] = [];
    for (const block of blocks) {
      if (!block.free || this.#listed.has(block.address)) {
        settled.push(block);
      } else {
        plan.found(`${block.size} bytes of xmalloc's were being taken or given back; they stay in use`);
        settled.push(...this.#separated(block).map((part) => ({ ...part, free: false })));
      }
    }
    this.#writeHeaders(page, settled);
  }

  /**
   * A block that was given back and merged into the free one before it still has its header, and 0 in the links behind it. So may others
   * have that were merged there earlier, and nothing tells which was the last: there is a part for each.
   */
  #separated(block: PoolBlock): PoolBlock[] {
    const { overhead } = this.#pool;
    const end = block.address + overhead + BigInt(block.size);
    const starts = [block.address];
    for (let at = block.address + overhead + 16n; at < end - overhead; at += 16n)
      if (this.#wasMerged(at, block.address, end)) starts.push(at);
    return starts.map((address, n) => ({
      ...block,
      address,
      size: Number((starts[n + 1] ?? end) - address - overhead),
    }));
  }

  /** Whether here is the header of a block that was given back, with the free one `before` it, and that reached to `end`. */
  #wasMerged(at: bigint, before: bigint, end: bigint): boolean {
    const pool = this.#pool;
    const word = pool.sizeWord(at);
    if (pool.previousOf(at) !== before || (word & 7) !== (FREE_BLOCK | PREVIOUS_FREE)) return false;
    if (at + pool.overhead + BigInt(word & ~7) !== end) return false;
    return pool.linksOf(at).every((link) => link === 0n);
  }

  #writeHeaders(page: bigint, blocks: readonly PoolBlock[]): void {
    const { plan } = this.#context;
    const reason = `headers of a page of xmalloc's agree`;
    let before: PoolBlock | undefined;
    for (const block of [...blocks, { address: this.#pool.sentinelOf(page), size: 0, free: false }]) {
      const flags = (block.free ? FREE_BLOCK : 0) | (before?.free === true ? PREVIOUS_FREE : 0);
      plan.write(block.address, 8, before?.address ?? 0n, reason);
      plan.write(block.address + 8n, 4, block.size | flags, reason);
      before = block;
    }
  }

  #unlist(block: bigint, why: string): void {
    const index = this.#listed.get(block)!;
    this.#listed.delete(block);
    this.#lists[index] = this.#lists[index]!.filter((other) => other !== block);
    this.#changed.add(index);
    this.#context.plan.found(`block 0x${block.toString(16)} is taken off its list: ${why}`);
  }

  #link(index: number): void {
    const { plan } = this.#context;
    const pool = this.#pool;
    const blocks = this.#lists[index]!;
    const reason = `xmalloc's list ${index} linked anew`;
    const head = pool.headAddress(Math.floor(index / pool.listsPerLevel), index % pool.listsPerLevel);
    plan.write(head, 8, blocks[0] ?? 0n, reason);
    for (const [n, block] of blocks.entries()) {
      plan.write(block + pool.overhead, 8, blocks[n - 1] ?? 0n, reason);
      plan.write(block + pool.overhead + 8n, 8, blocks[n + 1] ?? 0n, reason);
    }
  }

  /** The bitmaps say which lists have something. */
  #mark(): void {
    const { plan } = this.#context;
    const pool = this.#pool;
    let first = 0;
    for (let fl = 0; fl < pool.levels; fl++) {
      let second = 0;
      for (let sl = 0; sl < pool.listsPerLevel; sl++)
        if (this.#lists[fl * pool.listsPerLevel + sl]!.length > 0) second |= 1 << sl;
      if (second !== 0) first |= 1 << fl;
      plan.write(pool.object.at('sl_bitmap') + BigInt(4 * fl), 4, second >>> 0, 'lists of xmalloc that have blocks');
    }
    plan.write(pool.object.at('fl_bitmap'), 4, first >>> 0, 'lists of xmalloc that have blocks');
  }
}
