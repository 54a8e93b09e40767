/**
 * The 4-level page walk of x86-64 (Intel SDM volume 3, chapter "Paging"; AMD APM volume 2, chapter 5), over anything that has
 * pages. Pure. Access rights are those of the whole walk: a page is writable only if every level says so.
 */
import { PAGE_SHIFT, PAGE_SIZE, type PhysicalAddress, physical } from './address.js';

/** Where a walk reads page tables from: a view, guest RAM, or a hand-made map in a test. */
export interface PageSource {
  page(frame: number): Uint8Array | undefined;
}

export interface Translation {
  /** Physical address of the byte. */
  readonly physical: PhysicalAddress;
  /** 4096, 2 MiB or 1 GiB. */
  readonly pageSize: number;
  readonly writable: boolean;
  readonly user: boolean;
  readonly noExecute: boolean;
}

export const PTE = {
  present: 1,
  writable: 1 << 1,
  user: 1 << 2,
  accessed: 1 << 5,
  dirty: 1 << 6,
  /** In a level-2 or level-3 entry: maps a large page itself. */
  large: 1 << 7,
  global: 1 << 8,
} as const;

const NO_EXECUTE = 0x8000_0000;
/** Address bits in the high half of an entry: bits 32 to 51. */
const HIGH_FRAME = 0x000f_ffff;
const TWO_32 = 2 ** 32;
const TOP_LEVEL = 4;

/**
 * Where a virtual address leads. `undefined` when it is not mapped, not canonical, or when a table lies where there is no
 * page. Five-level paging is not supported (Xen 4.17 does not use it).
 * @param root the value of CR3 (PCID and flag bits are ignored), or the physical address of the top table.
 */
export function translate(
  source: PageSource,
  root: bigint | PhysicalAddress,
  address: bigint,
): Translation | undefined {
  const va = BigInt.asUintN(64, address);
  if (BigInt.asUintN(64, BigInt.asIntN(48, va)) !== va) return undefined;
  // Split once: bigint arithmetic in the walk itself would cost more than all else.
  const high = Number((va >> 32n) & 0xffffn);
  const low = Number(va & 0xffff_ffffn);
  let table = typeof root === 'bigint' ? Number((root >> 12n) & 0xff_ffff_ffffn) : Math.floor(root / PAGE_SIZE);
  let writable = true;
  let user = true;
  let noExecute = false;
  for (let level = TOP_LEVEL; ; level--) {
    const page = source.page(table);
    if (!page) return undefined;
    const at = tableIndex(high, low, level) * 8;
    const entryLow = readWord(page, at);
    if ((entryLow & PTE.present) === 0) return undefined;
    const entryHigh = readWord(page, at + 4);
    writable &&= (entryLow & PTE.writable) !== 0;
    user &&= (entryLow & PTE.user) !== 0;
    noExecute ||= (entryHigh & NO_EXECUTE) !== 0;
    const target = (entryHigh & HIGH_FRAME) * TWO_32 + ((entryLow & ~0xfff) >>> 0);
    if (level > 1 && (level === TOP_LEVEL || (entryLow & PTE.large) === 0)) {
      table = target / PAGE_SIZE;
      continue;
    }
    const pageSize = PAGE_SIZE * 512 ** (level - 1);
    const offset = ((high & 0x7f) * TWO_32 + low) % pageSize;
    return { physical: physical(target - (target % pageSize) + offset), pageSize, writable, user, noExecute };
  }
}

/** The 9 index bits of a level: 47..39 for level 4 down to 20..12 for level 1. */
function tableIndex(high: number, low: number, level: number): number {
  switch (level) {
    case 4:
      return (high >>> 7) & 0x1ff;
    case 3:
      return ((high << 2) | (low >>> 30)) & 0x1ff;
    case 2:
      return (low >>> 21) & 0x1ff;
    default:
      return (low >>> PAGE_SHIFT) & 0x1ff;
  }
}

const readWord = (page: Uint8Array, at: number): number =>
  (page[at]! | (page[at + 1]! << 8) | (page[at + 2]! << 16) | (page[at + 3]! << 24)) >>> 0;
