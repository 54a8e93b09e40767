/**
 * Type references of page tables. A PV guest's page table is referenced by each entry of a validated table one level up, one at the top by
 * each vCPU that has it as its own (`arch.guest_table`, `arch.guest_table_user`), and by its pin (Xen 4.17, arch/x86/mm.c). A thread that was dropped while it validated or took apart a table has taken or
 * dropped some of the references of its entries and not others; on the retry they would be taken once more, and when the
 * guest later uses such a page for something else, Xen refuses and the guest dies.
 *
 * What the count has to be can be counted: from the top level down, references are counted in all validated tables, and
 * a table with more than that loses the difference. One that is left with none is taken apart as Xen does it: it is no
 * longer validated, and what it references loses a reference as well. A table that was being validated is one of those;
 * the retried call validates it anew. (ReHype makes the validation bit agree with the count, and leaves the children.)
 *
 * Which tables have to be counted: those that an abandoned thread's registers and stack lead to, and what hangs below
 * one of them that is not validated. Most are settled by the tables of the address spaces in use: a count that is no higher
 * than the references found there is right, whatever else there may be. Where one is higher, all tables are looked for, in
 * memory that is allocated. To look for all tables in all of RAM is there for comparison.
 *
 * A reference can be parked: a call that was preempted while it gave one back notes the table in its vCPU
 * (`arch.old_guest_table`), and the vCPU's next call goes on with it. Such a reference counts. Where the dropped thread had given it
 * back and not yet taken the note away, the note goes: to give it back twice is a BUG to Xen.
 */

import { allVcpus, type Vcpu } from '../../xen/domains.js';
import { FrameWords, frameTable, pageInfo } from '../../xen/frames.js';
import { baseTables, childOf, PageTables, TABLE_ENTRIES, type TableLevel } from '../../xen/page-tables.js';
import { touchedFrames } from '../../xen/touched.js';
import type { Step, StepContext } from '../step.js';

/** `touched`: frames that abandoned threads lead to. `everywhere`: all of the frame table. */
export type FrameSearch = 'touched' | 'everywhere';

/** A thorough plan looks everywhere; so does one for a Xen whose direct map is compressed, where addresses do not tell. */
export const searchOf = ({ scope, xen }: StepContext, search: FrameSearch): FrameSearch =>
  scope === 'everything' || !xen.memory.hasPlainDirectMap ? 'everywhere' : search;

const PRESENT = 1;
const WRITABLE = 2;
/** Functions that change page tables or their types. */
export const CHANGES_TABLES =
  /page_type|put_page|get_page|mod_l\d|mmu_update|mmuext|update_va_mapping|ptwr|promote|demote|l\d_table|put_pt|pv_ro_page|page_lock/;

export const pageTablesBy = (search: FrameSearch): Step => ({
  name: 'page-tables',
  removes: 'type references of page tables that were half taken or half dropped',
  source: 'ours; Le and Tamir, VEE 2011 for the validation bit; Xen 4.17 arch/x86/mm.c',
  run(context) {
    const recount = new Recount(context);
    if (searchOf(context, search) === 'touched') recount.touched();
    else if (context.wasIn(CHANGES_TABLES)) recount.everywhere();
  },
});

export const pageTables = pageTablesBy('touched');

/** From the top down: the references of a level are counted when those above it are right. */
const LEVELS = [4, 3, 2, 1] as const;

class Recount {
  readonly #context: StepContext;
  readonly #words: FrameWords;
  readonly #tables: PageTables;
  readonly #countMask: bigint;
  readonly #validated: bigint;
  readonly #partial: bigint;
  readonly #pinned: bigint;
  readonly #writable: bigint;
  readonly #typeMask: bigint;
  readonly #generalMask: bigint;
  readonly #table: bigint;
  readonly #size: number;
  readonly #typeAt: number;
  readonly #countAt: number;
  /** How many parked references each frame has, and on which dropped threads' notes they stand. */
  readonly #parked = new Map<number, number>();
  readonly #notes = new Map<number, Vcpu>();

  constructor(context: StepContext) {
    this.#context = context;
    const constant = (name: string): bigint => BigInt(context.xen.profile.constant(name));
    this.#words = new FrameWords(context.xen);
    this.#tables = new PageTables(context.xen, this.#words);
    this.#countMask = constant('PGT_count_mask');
    this.#validated = constant('PGT_validated');
    this.#partial = constant('PGT_partial');
    this.#pinned = constant('PGT_pinned');
    this.#writable = constant('PGT_writable_page');
    this.#typeMask = constant('PGT_type_mask');
    this.#generalMask = constant('PGC_count_mask');
    const layout = context.xen.profile.struct('page_info');
    this.#table = frameTable(context.xen);
    this.#size = layout.size;
    this.#typeAt = layout.field('u.inuse.type_info').offset;
    this.#countAt = layout.field('count_info').offset;
    this.#readNotes();
  }

  #readNotes(): void {
    const { situation, abandoned } = this.#context;
    for (const vcpu of allVcpus(situation.domains)) {
      const address = vcpu.domain.kind === 'pv' ? vcpu.object.u64('arch.old_guest_table') : 0n;
      if (address === 0n) continue;
      const frame = Number(address - this.#table) / this.#size;
      const whole = !vcpu.object.bool('arch.old_guest_table_partial');
      const dropped = whole && abandoned.some(({ current }) => current.address === vcpu.address);
      if (dropped && (this.#typeInfo(frame) & this.#validated) === 0n) {
        this.#forget(vcpu, frame);
        continue;
      }
      this.#parked.set(frame, (this.#parked.get(frame) ?? 0) + 1);
      if (dropped) this.#notes.set(frame, vcpu);
    }
  }

  #forget(vcpu: Vcpu, frame: number): void {
    const reason = `${vcpu.name} had given back its reference of frame 0x${frame.toString(16)}`;
    if (this.#context.plan.set(vcpu.object, 'arch.old_guest_table', 0, reason)) this.#context.plan.found(reason);
  }

  everywhere(): void {
    const all = this.#tables.list('all');
    for (const level of LEVELS) {
      const references = this.#references(level, (above) => all[above], all[level]);
      this.#fix(level, all[level], references);
    }
  }

  touched(): void {
    const { xen, abandoned, situation } = this.#context;
    const suspects = this.#suspects([...touchedFrames(xen, this.#words, abandoned), ...this.#notes.keys()]);
    if (LEVELS.every((level) => suspects[level].size === 0)) return;
    const inUse = this.#tables.inUse(situation.domains);
    for (const level of LEVELS) {
      const likely = (above: TableLevel): Set<number> => new Set([...inUse[above], ...suspects[above]]);
      const references = this.#references(level, likely, suspects[level]);
      const unexplained = [...suspects[level]]
        .filter((frame) => this.#excess(frame, references) > 0 || this.#notes.has(frame))
        .sort(ascending);
      if (unexplained.length === 0) continue;
      const counted = this.#references(level, (above) => this.#context.pageTables[above], unexplained);
      const dropped = this.#fix(level, unexplained, counted);
      for (const table of dropped) this.#addChildren(suspects, table, level);
    }
  }

  /** How often each of these tables is referenced, apart from pins. @param tablesOf gives those of a level to look through */
  #references(
    level: TableLevel,
    tablesOf: (level: TableLevel) => Iterable<number>,
    wanted: Iterable<number>,
  ): ReadonlyMap<number, number> {
    if (level === 4) return this.#bases();
    const above = (level + 1) as TableLevel;
    return this.#tables.references(tablesOf(above), above, wanted);
  }

  /** How many vCPUs have each top-level table as their own, for the kernel or for its processes. */
  #bases(): ReadonlyMap<number, number> {
    const counts = new Map<number, number>();
    for (const frame of baseTables(this.#context.situation.domains)) counts.set(frame, (counts.get(frame) ?? 0) + 1);
    return counts;
  }

  /** Touched tables by level, with what hangs below those that are not validated. */
  #suspects(touched: readonly number[]): Record<TableLevel, Set<number>> {
    const suspects = { 1: new Set<number>(), 2: new Set<number>(), 3: new Set<number>(), 4: new Set<number>() };
    for (const frame of touched) {
      const level = this.#tables.levelOf(frame);
      if (level !== undefined) suspects[level].add(frame);
    }
    for (const level of [4, 3, 2] as const) {
      for (const table of suspects[level]) {
        if ((this.#typeInfo(table) & this.#validated) === 0n) this.#addChildren(suspects, table, level);
      }
    }
    return suspects;
  }

  #addChildren(suspects: Record<TableLevel, Set<number>>, table: number, level: TableLevel): void {
    if (level === 1) return;
    const below = (level - 1) as TableLevel;
    this.#tables.eachChild(table, level, 'all', (child) => {
      if (child < this.#words.count && this.#tables.levelOf(child) === below) suspects[below].add(child);
    });
  }

  /**
   * Tables that translate for an HVM guest have a type of the same form and nobody's reference (Xen 4.17, arch/x86/mm/p2m.c:
   * p2m_alloc_ptp): no guest sees them, and what they say is taken as it is.
   */
  #isGuests(frame: number): boolean {
    return (pageInfo(this.#context.xen, frame).u64('count_info') & this.#generalMask) !== 0n;
  }

  /** How many references too many a table has. */
  #excess(frame: number, references: ReadonlyMap<number, number>): number {
    const info = this.#typeInfo(frame);
    return Number(info & this.#countMask) - this.#expected(info, frame, references);
  }

  #expected(info: bigint, frame: number, references: ReadonlyMap<number, number>): number {
    if (!this.#isGuests(frame)) return Number(info & this.#countMask);
    const pin = (info & this.#pinned) === 0n ? 0 : 1;
    return (references.get(frame) ?? 0) + pin + (this.#parked.get(frame) ?? 0);
  }

  /** Corrects what is too high. Returns tables that were valid and are left without a reference. */
  #fix(level: TableLevel, frames: Iterable<number>, references: ReadonlyMap<number, number>): number[] {
    const dropped: number[] = [];
    for (const frame of frames) {
      const info = this.#typeInfo(frame);
      const count = Number(info & this.#countMask);
      const expected = this.#expected(info, frame, references);
      const noted = this.#notes.get(frame);
      if (count < expected && noted !== undefined) this.#forget(noted, frame);
      if (count <= expected) continue;
      const reason = `frame 0x${frame.toString(16)}, a level ${level} table, had ${count} references and has ${expected}`;
      this.#context.plan.found(reason);
      const wasValid = (info & this.#validated) !== 0n;
      const after = info - BigInt(count - expected);
      this.#setTypeInfo(frame, expected === 0 ? after & ~(this.#validated | this.#partial) : after, reason);
      this.#dropGeneral(frame, count - expected, reason);
      if (expected !== 0) continue;
      dropped.push(frame);
      if (wasValid && level === 1) this.#dropMappings(frame, reason);
    }
    return dropped;
  }

  /** What a lowest-level table maps loses one reference for each entry, of its type too where it is mapped writable. */
  #dropMappings(table: number, reason: string): void {
    const found = this.#tables.wordsOf(table);
    if (found === undefined) return;
    const words = Uint32Array.from(found);
    for (let n = 0; n < TABLE_ENTRIES; n++) {
      const low = words[2 * n]!;
      const frame = childOf(low, words[2 * n + 1]!);
      if ((low & PRESENT) !== 0 && frame < this.#words.count) this.#dropMapping(frame, (low & WRITABLE) !== 0, reason);
    }
    this.#words.changed();
  }

  /** There are up to 512 of them, so no object is made for any. */
  #dropMapping(frame: number, writable: boolean, reason: string): void {
    const { plan, xen } = this.#context;
    const at = this.#table + BigInt(frame * this.#size);
    const info = xen.memory.u64(at, this.#typeAt);
    const isWritable = (info & this.#typeMask) === this.#writable && (info & this.#countMask) > 0n;
    if (writable && isWritable) plan.write(at + BigInt(this.#typeAt), 8, info - 1n, reason);
    const general = xen.memory.u64(at, this.#countAt);
    if ((general & this.#generalMask) > 1n) plan.write(at + BigInt(this.#countAt), 8, general - 1n, reason);
  }

  #typeInfo(frame: number): bigint {
    return pageInfo(this.#context.xen, frame).u64('u.inuse.type_info');
  }

  #setTypeInfo(frame: number, value: bigint, reason: string): void {
    this.#context.plan.set(pageInfo(this.#context.xen, frame), 'u.inuse.type_info', value, reason);
    this.#words.changed();
  }

  #dropGeneral(frame: number, times: number, reason: string): void {
    dropGeneral(this.#context, frame, times, reason);
  }
}

/** Each type reference comes with a general one. The last general one is not ours to drop: it would free the page. */
export function dropGeneral({ plan, xen }: StepContext, frame: number, times: number, reason: string): void {
  const info = pageInfo(xen, frame);
  const value = info.u64('count_info');
  const count = value & BigInt(xen.profile.constant('PGC_count_mask'));
  if (count > BigInt(times)) plan.set(info, 'count_info', value - BigInt(times), reason);
}

const ascending = (a: number, b: number): number => a - b;
