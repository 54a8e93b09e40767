/** PV guests' page tables as Xen counts them: which frames are tables, and what refers to what. */
import { PAGE_SHIFT } from '../x86/address.js';
import type { View } from '../x86/view.js';
import type { Domain } from './domains.js';
import { type FrameWords, pageInfo, type WantedFrames } from './frames.js';
import { wordsOf } from './words.js';
import type { Xen } from './xen.js';

export type TableLevel = 1 | 2 | 3 | 4;

export const TABLE_ENTRIES = 512;
const PRESENT = 1;
const WRITABLE = 2;
/** Slots of a top-level table that belong to Xen (asm-x86/config.h: ROOT_PAGETABLE_FIRST_XEN_SLOT and _LAST_). */
export const XEN_SLOTS = { first: 256, last: 271 } as const;

const TABLES: WantedFrames = { anyOf: 0, types: 0b11110, noneOf: 0 };

/** The level of a table by the upper half of its frame's `type_info`; `undefined` when it is none. */
export function tableLevel(upperTypeInfo: number): TableLevel | undefined {
  const type = upperTypeInfo >>> 29;
  return type >= 1 && type <= 4 ? (type as TableLevel) : undefined;
}

/** The frame that a present entry leads to, by the halves of the entry. */
export const childOf = (low: number, high: number): number => (high & 0xfffff) * 2 ** 20 + (low >>> 12);

/** How often a page is mapped, and how often of these so that it can be written to. */
export interface MappingCount {
  readonly all: number;
  readonly writable: number;
}

const NO_MAPPING: MappingCount = { all: 0, writable: 0 };

/** Of a table that tells at once of most frames that they are not among some dozen: a power of two that fits a CPU's first cache. */
const FILTER_SIZE = 4096;

export class PageTables {
  readonly #xen: Xen;
  readonly #words: FrameWords;
  readonly #validated: number;
  readonly #partial: number;

  constructor(xen: Xen, words: FrameWords) {
    this.#xen = xen;
    this.#words = words;
    const upper = (name: string): number => Number(BigInt(xen.profile.constant(name)) >> 32n);
    this.#validated = upper('PGT_validated');
    this.#partial = upper('PGT_partial');
  }

  levelOf(frame: number): TableLevel | undefined {
    const level = tableLevel(this.#words.typeOf(frame));
    if (level !== undefined) this.#words.keep(frame);
    return level;
  }

  /** The words of a table; its entries are pairs, the lower half first. Read, and so kept in a capsule. */
  wordsOf(frame: number): Uint32Array | undefined {
    const page = this.#xen.view.page(frame);
    return page && wordsOf(page);
  }

  /** How many entries at the start of a table hold references to what they lead to. */
  #validEntries(frame: number): number {
    const type = this.#words.typeOf(frame);
    if ((type & this.#validated) !== 0) return TABLE_ENTRIES;
    if ((type & this.#partial) === 0) return 0;
    // The entry behind the last complete one holds a reference too while it is partly validated.
    const descriptor = pageInfo(this.#xen, frame);
    return descriptor.num('nr_validated_ptes') + (descriptor.num('partial_flags') === 0 ? 0 : 1);
  }

  /**
   * Visits the frames that a table's present entries lead to.
   * @param which `referenced`: entries that hold references, as far as the table is validated. `all`: those that do not, too.
   */
  eachChild(frame: number, level: TableLevel, which: 'referenced' | 'all', visit: (child: number) => void): void {
    const entries = which === 'all' ? TABLE_ENTRIES : this.#validEntries(frame);
    const words = entries === 0 ? undefined : this.wordsOf(frame);
    if (words === undefined) return;
    for (let n = 0; n < entries; n++) {
      if (level === 4 && n >= XEN_SLOTS.first && n <= XEN_SLOTS.last) continue;
      const low = words[2 * n]!;
      if ((low & PRESENT) !== 0) visit(childOf(low, words[2 * n + 1]!));
    }
  }

  /** The frame that an entry leads to; `undefined` where there is none. @param entry 0 to 511 */
  childAt(frame: number, entry: number): number | undefined {
    const words = this.wordsOf(frame);
    const low = words?.[2 * entry] ?? 0;
    if (words === undefined || (low & PRESENT) === 0) return undefined;
    const child = childOf(low, words[2 * entry + 1]!);
    return child < this.#words.count ? child : undefined;
  }

  /** How often each of these frames is referenced by the given tables, all of one level. */
  references(tables: Iterable<number>, level: TableLevel, wanted: Iterable<number>): ReadonlyMap<number, number> {
    const counts = new Map<number, number>();
    for (const frame of wanted) counts.set(frame, 0);
    const count = (child: number): void => {
      const known = counts.get(child);
      if (known !== undefined) counts.set(child, known + 1);
    };
    for (const table of tables) this.eachChild(table, level, 'referenced', count);
    return counts;
  }

  /** A search for mappings of pages. @param wanted pages, and how many mappings of each are looked for */
  searchMappings(wanted: ReadonlyMap<number, number>): MappingSearch {
    return new MappingSearch(this.#xen.view, wanted, (table) => this.#validEntries(table));
  }

  /** Lowest-level tables that these tables of the level above lead to. */
  lowest(above: Iterable<number>): Set<number> {
    const found = new Set<number>();
    for (const table of above) {
      this.eachChild(table, 2, 'referenced', (child) => {
        if (child < this.#words.count && !found.has(child) && this.levelOf(child) === 1) found.add(child);
      });
    }
    return found;
  }

  /** All tables, by level; see `FrameWords.where`. */
  list(memory: 'all' | 'allocated'): Record<TableLevel, number[]> {
    const tables: Record<TableLevel, number[]> = { 1: [], 2: [], 3: [], 4: [] };
    for (const frame of this.#words.where(TABLES, memory)) {
      tables[this.levelOf(frame)!].push(frame);
    }
    return tables;
  }

  /** The tables of the address spaces in which the guests' vCPUs are: top level, and the two below it. */
  inUse(domains: readonly Domain[]): Record<TableLevel, Set<number>> {
    const tables = { 1: new Set<number>(), 2: new Set<number>(), 3: new Set<number>(), 4: new Set<number>() };
    for (const frame of baseTables(domains)) {
      if (frame >= this.#words.count) continue;
      tables[4].add(frame);
      // Its entries count as far as its descriptor says.
      this.#words.keep(frame);
    }
    for (const level of [4, 3] as const) {
      const below = (level - 1) as TableLevel;
      for (const table of tables[level]) {
        this.eachChild(table, level, 'referenced', (child) => {
          if (child < this.#words.count && this.levelOf(child) === below) tables[below].add(child);
        });
      }
    }
    return tables;
  }
}

/** The top-level tables that PV guests' vCPUs have as their own, for the kernel and for its processes: one for each that has it. */
export function* baseTables(domains: readonly Domain[]): Generator<number> {
  for (const { kind, vcpus } of domains) {
    if (kind !== 'pv') continue;
    for (const { object } of vcpus) {
      for (const path of ['arch.guest_table', 'arch.guest_table_user']) {
        const frame = Number(object.u64(path));
        if (frame > 0) yield frame;
      }
    }
  }
}

/**
 * Counts how often pages are mapped by lowest-level tables, as far as these are validated, until each page has as many mappings as
 * are looked for. Tables are looked through in the order given, each only once.
 */
export class MappingSearch {
  readonly #view: View;
  readonly #validEntries: (table: number) => number;
  /** By the lower bits of their numbers: a lookup in a map for each of some hundred thousand entries takes far longer. */
  readonly #mayBeWanted = new Uint8Array(FILTER_SIZE);
  readonly #counts = new Map<number, { all: number; writable: number; readonly wanted: number }>();
  readonly #seen = new Set<number>();
  /** Pages that have fewer mappings than are looked for. */
  #lacking = 0;

  constructor(view: View, wanted: ReadonlyMap<number, number>, validEntries: (table: number) => number) {
    this.#view = view;
    this.#validEntries = validEntries;
    for (const [frame, count] of wanted) {
      this.#mayBeWanted[frame % FILTER_SIZE] = 1;
      this.#counts.set(frame, { all: 0, writable: 0, wanted: count });
      if (count > 0) this.#lacking++;
    }
  }

  /** Looks through more tables; says whether all that is looked for is found. */
  through(tables: Iterable<number>): boolean {
    for (const table of tables) {
      if (this.#lacking === 0) break;
      if (this.#seen.has(table)) continue;
      this.#seen.add(table);
      const entries = this.#validEntries(table);
      const page = entries === 0 ? undefined : this.#view.glance(table);
      // Hundreds of tables are looked through; a capsule keeps those in which something was found.
      if (page !== undefined && this.#count(page, entries)) this.#view.page(table);
    }
    return this.#lacking === 0;
  }

  /** Mappings found of a page. */
  of(frame: number): MappingCount {
    return this.#counts.get(frame) ?? NO_MAPPING;
  }

  #count(page: Uint8Array, entries: number): boolean {
    const words = wordsOf(page);
    const mayBeWanted = this.#mayBeWanted;
    let found = false;
    for (let n = 0; n < 2 * entries; n += 2) {
      const low: number = words[n]!;
      if ((low & PRESENT) === 0 || mayBeWanted[(low >>> PAGE_SHIFT) % FILTER_SIZE] !== 1) continue;
      const count = this.#counts.get(childOf(low, words[n + 1]!));
      if (count === undefined) continue;
      count.all++;
      if ((low & WRITABLE) !== 0) count.writable++;
      if (count.all === count.wanted) this.#lacking--;
      found = true;
    }
    return found;
  }
}
