/**
 * Type references of page tables. A PV guest's page table is referenced by each entry of a validated table one level up
 * and by its pin (Xen 4.17, arch/x86/mm.c). A thread that was dropped while it validated or took apart a table has taken or
 * dropped some of the references of its entries and not others; on the retry they would be taken once more, and when the
 * guest later uses such a page for something else, Xen refuses and the guest dies.
 *
 * What the count has to be can be counted: from the top level down, references are counted in all validated tables, and
 * a table with more than that loses the difference. One that is left with none is taken apart as Xen does it: it is no
 * longer validated, and what it references loses a reference as well. A table that was being validated is one of those;
 * the retried call validates it anew.
 *
 * The cost grows with the number of page tables of PV guests, not with RAM, and is paid only when a dropped thread was
 * inside the code that changes them. (ReHype makes the validation bit agree with the count, and leaves the children.)
 */
import { PAGE_SIZE } from '../../x86/address.js';
import { framesWhere, pageInfo } from '../../xen/frames.js';
import type { Step, StepContext } from '../step.js';

const ENTRIES = 512;
const PRESENT = 1;
const WRITABLE = 2;
/** Slots of a top-level table that belong to Xen (asm-x86/config.h: ROOT_PAGETABLE_FIRST_XEN_SLOT and _LAST_). */
const XEN_SLOTS = { first: 256, last: 271 } as const;
/** Functions that change page tables or their types. */
export const CHANGES_TABLES =
  /page_type|put_page|get_page|mod_l\d|mmu_update|mmuext|update_va_mapping|ptwr|promote|demote|l\d_table|put_pt|pv_ro_page|page_lock/;

export const pageTables: Step = {
  name: 'page-tables',
  removes: 'type references of page tables that were half taken or half dropped',
  source: 'ours; Le and Tamir, VEE 2011 for the validation bit; Xen 4.17 arch/x86/mm.c',
  run(context) {
    if (context.wasIn(CHANGES_TABLES)) new Recount(context).run();
  },
};

type Level = 1 | 2 | 3 | 4;

class Recount {
  readonly #context: StepContext;
  readonly #tables: Record<Level, number[]> = { 1: [], 2: [], 3: [], 4: [] };
  readonly #countMask: bigint;
  readonly #validated: bigint;
  readonly #partial: bigint;
  readonly #pinned: bigint;
  readonly #writable: bigint;
  readonly #typeMask: bigint;

  constructor(context: StepContext) {
    this.#context = context;
    const constant = (name: string): bigint => BigInt(context.xen.profile.constant(name));
    this.#countMask = constant('PGT_count_mask');
    this.#validated = constant('PGT_validated');
    this.#partial = constant('PGT_partial');
    this.#pinned = constant('PGT_pinned');
    this.#writable = constant('PGT_writable_page');
    this.#typeMask = constant('PGT_type_mask');
  }

  run(): void {
    const { xen } = this.#context;
    const state = BigInt(xen.profile.constant('PGC_state'));
    for (const frame of framesWhere(xen, (word) => isTable(word >>> 29))) {
      if ((pageInfo(xen, frame).u64('count_info') & state) !== 0n) continue;
      this.#tables[Number(this.#typeInfo(frame) >> 61n) as Level].push(frame);
    }
    for (const level of [3, 2, 1] as const) this.#fixLevel(level, this.#references((level + 1) as Level));
  }

  /** How often each frame is referenced by the tables of a level. */
  #references(level: Level): Map<number, number> {
    const references = new Map<number, number>();
    for (const frame of this.#tables[level]) {
      for (const child of this.#children(frame, level, this.#validEntries(frame))) {
        references.set(child, (references.get(child) ?? 0) + 1);
      }
    }
    return references;
  }

  /** How many entries at the start of a table hold references. */
  #validEntries(frame: number): number {
    const info = this.#typeInfo(frame);
    if ((info & this.#validated) !== 0n) return ENTRIES;
    if ((info & this.#partial) === 0n) return 0;
    // The entry behind the last complete one holds a reference too while it is partly validated.
    const descriptor = pageInfo(this.#context.xen, frame);
    return descriptor.num('nr_validated_ptes') + (descriptor.num('partial_flags') === 0 ? 0 : 1);
  }

  *#children(frame: number, level: Level, entries: number): Generator<number> {
    const page = this.#context.xen.view.page(frame);
    if (page === undefined) return;
    const words = new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4);
    for (let n = 0; n < entries; n++) {
      if (level === 4 && n >= XEN_SLOTS.first && n <= XEN_SLOTS.last) continue;
      const low = words[2 * n]!;
      if ((low & PRESENT) !== 0) yield (words[2 * n + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12);
    }
  }

  #fixLevel(level: 1 | 2 | 3, references: ReadonlyMap<number, number>): void {
    for (const frame of this.#tables[level]) {
      const info = this.#typeInfo(frame);
      const count = Number(info & this.#countMask);
      const expected = (references.get(frame) ?? 0) + ((info & this.#pinned) === 0n ? 0 : 1);
      if (count <= expected) continue;
      const reason = `frame 0x${frame.toString(16)}, a level ${level} table, had ${count} references and has ${expected}`;
      this.#context.plan.found(reason);
      const wasValid = (info & this.#validated) !== 0n;
      const after = info - BigInt(count - expected);
      this.#setTypeInfo(frame, expected === 0 ? after & ~(this.#validated | this.#partial) : after, reason);
      this.#dropGeneral(frame, count - expected, reason);
      if (expected === 0 && wasValid && level === 1) this.#dropMappings(frame, reason);
    }
  }

  /** What a lowest-level table maps loses one reference for each entry, of its type too where it is mapped writable. */
  #dropMappings(table: number, reason: string): void {
    const { xen } = this.#context;
    const page = xen.view.page(table);
    if (page === undefined) return;
    const words = Uint32Array.from(new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4));
    const limit = Number(xen.memory.u64(xen.symbol('max_page')));
    for (let n = 0; n < ENTRIES; n++) {
      const low = words[2 * n]!;
      const frame = (words[2 * n + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12);
      if ((low & PRESENT) === 0 || frame >= limit) continue;
      const info = this.#typeInfo(frame);
      const isWritable = (info & this.#typeMask) === this.#writable && (info & this.#countMask) > 0n;
      if ((low & WRITABLE) !== 0 && isWritable) this.#setTypeInfo(frame, info - 1n, reason);
      this.#dropGeneral(frame, 1, reason);
    }
  }

  #typeInfo(frame: number): bigint {
    return pageInfo(this.#context.xen, frame).u64('u.inuse.type_info');
  }

  #setTypeInfo(frame: number, value: bigint, reason: string): void {
    this.#context.plan.set(pageInfo(this.#context.xen, frame), 'u.inuse.type_info', value, reason);
  }

  /** Each type reference comes with a general one. The last general one is not ours to drop: it would free the page. */
  #dropGeneral(frame: number, times: number, reason: string): void {
    const info = pageInfo(this.#context.xen, frame);
    const value = info.u64('count_info');
    const count = value & BigInt(this.#context.xen.profile.constant('PGC_count_mask'));
    const drop = count > BigInt(times) ? BigInt(times) : 0n;
    this.#context.plan.set(info, 'count_info', value - drop, reason);
  }
}

const isTable = (type: number): boolean => type >= 1 && type <= 4;
