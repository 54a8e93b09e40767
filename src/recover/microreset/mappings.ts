/**
 * References that mappings hold. Each present entry of a validated lowest-level table holds one of the page it maps, and one
 * of the page's being writable where it maps it so (Xen 4.17, arch/x86/mm.c `get_page_from_l1e`). A thread that was dropped
 * in between has taken a reference and not yet made the entry, or changed the entry and not yet given the old page's back; the
 * retry takes and gives its own. A page with a reference too many can never become a page table again, and is never freed:
 * the guest that tries dies.
 *
 * What a page's counts have to be can be counted: one for its being allocated, and one for each entry. On a healthy box that
 * holds for all pages of PV guests but those few that Xen itself maps (event queues, vCPU records), which are left out.
 * Looked at are pages that an abandoned thread's registers and stack lead to, and those that a table maps which was being
 * validated. A copy between grants, and a grant being mapped or unmapped, hold such references too. Their mappings are looked for where they are likeliest, then in the address spaces in use, and where that does not
 * explain all references, in all tables.
 */
import { guestFrameOf } from '../../xen/domain-pages.js';
import { FrameWords, pageInfo } from '../../xen/frames.js';
import { pagesThatXenMaps } from '../../xen/own-mappings.js';
import { type MappingCount, PageTables, TABLE_ENTRIES } from '../../xen/page-tables.js';
import { touchedFrames } from '../../xen/touched.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { USES_GRANTS } from './grant-pins.js';
import { CHANGES_TABLES } from './page-tables.js';

export const mappings: Step = {
  name: 'mappings',
  removes: 'references to pages that a dropped change of their mapping took, or did not give back',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 arch/x86/mm.c',
  run(context) {
    const { xen } = context;
    if (!context.wasIn(CHANGES_TABLES) && !context.wasIn(USES_GRANTS)) return;
    if (!xen.memory.hasPlainDirectMap) return;
    const words = new FrameWords(xen);
    const tables = new PageTables(xen, words);
    const constants = readConstants(xen);
    const suspects = candidates(context, words, constants);
    if (suspects.length === 0) return;
    const search = tables.searchMappings(new Map(suspects.map((frame) => [frame, references(xen, constants, frame)])));
    const inUse = tables.inUse(context.situation.domains)[2];
    // The likeliest tables first: nearly always every reference is one that a mapping holds, and few tables tell.
    if (search.through(inOnePiece(xen, tables, inUse, suspects)) || search.through(tables.lowest(inUse))) return;
    if (search.through(context.pageTables[1])) return;
    for (const frame of suspects) correct(context, constants, frame, search.of(frame));
  },
};

interface Constants {
  readonly generalMask: bigint;
  readonly typeMask: bigint;
  readonly writableUpper: number;
  readonly typeUpper: number;
  readonly settledUpper: number;
  /** Page numbers of PV domains' structures, which is how a page names its owner. */
  readonly directMap: bigint;
}

function readConstants(xen: Xen): Constants {
  const constant = (name: string): bigint => BigInt(xen.profile.constant(name));
  const upper = (name: string): number => Number(constant(name) >> 32n);
  return {
    generalMask: constant('PGC_count_mask'),
    typeMask: constant('PGT_count_mask'),
    writableUpper: upper('PGT_writable_page'),
    typeUpper: upper('PGT_type_mask'),
    settledUpper: upper('PGT_validated') | upper('PGT_partial'),
    directMap: constant('DIRECTMAP_VIRT_START'),
  };
}

/** Writable pages of PV guests that the dropped threads lead to, and those mapped by tables caught while they were validated. */
function candidates(context: StepContext, words: FrameWords, constants: Constants): number[] {
  const { xen, frozen, abandoned, situation } = context;
  const owners = new Set<number>();
  for (const { kind, address } of situation.domains)
    if (kind === 'pv') owners.add(Number((address - constants.directMap) >> 12n));
  const before = new FrameWords(frozen);
  const tables = new PageTables(frozen, before);
  const touched = touchedFrames(frozen, before, abandoned);
  const own = pagesThatXenMaps(xen, situation.domains);
  const found = new Set<number>();
  const add = (frame: number): void => {
    if (frame >= words.count || own.has(frame)) return;
    if ((words.typeOf(frame) & constants.typeUpper) >>> 0 !== constants.writableUpper >>> 0) return;
    if (owners.has(pageInfo(xen, frame).num('v.inuse._domain'))) found.add(frame);
  };
  for (const frame of touched) {
    add(frame);
    const unsettled = (before.typeOf(frame) & constants.settledUpper) === 0;
    if (unsettled && tables.levelOf(frame) === 1) tables.eachChild(frame, 1, 'all', add);
  }
  return [...found].sort((a, b) => a - b);
}

/**
 * Lowest-level tables in which these pages are if guests map all their memory in one piece, as Linux does: where in a table of the
 * level above such a mapping stands, a page's number in its guest tells. Where they do not, it is some tables like any others.
 */
function inOnePiece(xen: Xen, tables: PageTables, above: Iterable<number>, frames: readonly number[]): Set<number> {
  const places = new Set<number>();
  for (const frame of frames) {
    const guestFrame = guestFrameOf(xen, frame);
    if (guestFrame !== undefined) places.add(Number((guestFrame / BigInt(TABLE_ENTRIES)) % BigInt(TABLE_ENTRIES)));
  }
  const found = new Set<number>();
  for (const table of above) {
    for (const place of places) {
      const child = tables.childAt(table, place);
      if (child !== undefined && tables.levelOf(child) === 1) found.add(child);
    }
  }
  return found;
}

/** How many references of a page its mappings have to hold. One is that of the page's being allocated. */
const references = (xen: Xen, { generalMask }: Constants, frame: number): number =>
  Number(pageInfo(xen, frame).u64('count_info') & generalMask) - 1;

/** Takes back what is too much. More than one is nothing that a dropped change of a mapping leaves behind. */
function correct({ plan, xen }: StepContext, constants: Constants, frame: number, mapped: MappingCount): void {
  const all = references(xen, constants, frame) - mapped.all;
  const writable = Number(pageInfo(xen, frame).u64('u.inuse.type_info') & constants.typeMask) - mapped.writable;
  if (all !== 1 || writable < 0 || writable > 1) return;
  const info = pageInfo(xen, frame);
  const reason = `frame 0x${frame.toString(16)} has a reference that no mapping holds`;
  plan.set(info, 'count_info', info.u64('count_info') - 1n, reason);
  if (writable === 1) plan.set(info, 'u.inuse.type_info', info.u64('u.inuse.type_info') - 1n, reason);
  plan.found(reason);
}
