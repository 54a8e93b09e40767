/** PV guests' page tables as Xen counts them: which frames are tables, and what refers to what. */
import { PAGE_SIZE } from '../x86/address.js';
import type { Domain } from './domains.js';
import { type FrameWords, pageInfo, type WantedFrames } from './frames.js';
import type { Xen } from './xen.js';

export type TableLevel = 1 | 2 | 3 | 4;

export const TABLE_ENTRIES = 512;
const PRESENT = 1;
const WRITABLE = 2;
/** Slots of a top-level table that belong to Xen (asm-x86/config.h: ROOT_PAGETABLE_FIRST_XEN_SLOT and _LAST_). */
const XEN_SLOTS = { first: 256, last: 271 } as const;

const TABLES: WantedFrames = { anyOf: 0, types: 0b11110, noneOf: 0 };

/** The level of a table by the upper half of its frame's `type_info`; `undefined` when it is none. */
export function tableLevel(upperTypeInfo: number): TableLevel | undefined {
  const type = upperTypeInfo >>> 29;
  return type >= 1 && type <= 4 ? (type as TableLevel) : undefined;
}

/** How often a page is mapped, and how often of these so that it can be written to. */
export interface MappingCount {
  readonly all: number;
  readonly writable: number;
}

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
    return page && new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4);
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
      if ((low & PRESENT) !== 0) visit((words[2 * n + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12));
    }
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

  /** How often each of these pages is mapped by the given lowest-level tables, as far as they are validated. */
  mappings(tables: Iterable<number>, wanted: Iterable<number>): ReadonlyMap<number, MappingCount> {
    // One byte for each frame of RAM: a lookup in a map for each of some hundred thousand entries takes far longer.
    const isWanted = new Uint8Array(this.#words.count);
    const counts = new Map<number, { all: number; writable: number }>();
    for (const frame of wanted) {
      isWanted[frame] = 1;
      counts.set(frame, { all: 0, writable: 0 });
    }
    for (const table of tables) {
      const entries = this.#validEntries(table);
      const page = entries === 0 ? undefined : this.#xen.view.glance(table);
      if (page === undefined) continue;
      const words: Uint32Array = new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4);
      let matters = false;
      for (let n = 0; n < 2 * entries; n += 2) {
        const low: number = words[n]!;
        if ((low & PRESENT) === 0) continue;
        const frame: number = (words[n + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12);
        if (isWanted[frame] !== 1) continue;
        const count = counts.get(frame)!;
        count.all++;
        if ((low & WRITABLE) !== 0) count.writable++;
        matters = true;
      }
      // Hundreds of tables are looked through; a capsule keeps those in which something was found.
      if (matters) this.#xen.view.page(table);
    }
    return counts;
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
    for (const { kind, vcpus } of domains) {
      if (kind !== 'pv') continue;
      for (const { object } of vcpus) {
        for (const path of ['arch.guest_table', 'arch.guest_table_user']) {
          const frame = Number(object.u64(path));
          if (frame > 0 && frame < this.#words.count) tables[4].add(frame);
        }
      }
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
