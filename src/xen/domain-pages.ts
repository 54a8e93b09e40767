/**
 * Pages that belong to a domain, in the order in which it got them, and where they are in its physical address space
 * (Xen 4.17: common/page_alloc.c `assign_pages`, include/xen/mm.h `page_list_*`, asm-x86/mm.h `machine_to_phys_mapping`).
 */
import { translate } from '../x86/paging.js';
import type { Domain } from './domains.js';
import { frameCount, frameTable, pageInfo } from './frames.js';
import type { Xen } from './xen.js';

/** No neighbour: `PAGE_LIST_NULL`, in a link of a page list. */
export const NO_PAGE = 0xffff_ffff;
/** `INVALID_M2P_ENTRY`: the frame is in nobody's physical address space. */
const NOWHERE = 0xffff_ffff_ffff_ffffn;

/** Frame number of a descriptor; `undefined` where the address is that of none. */
export function frameOf(xen: Xen, descriptor: bigint): number | undefined {
  const offset = descriptor - frameTable(xen);
  const size = BigInt(xen.sizeOf('page_info'));
  if (offset < 0n || offset % size !== 0n) return undefined;
  const frame = Number(offset / size);
  return frame < frameCount(xen) ? frame : undefined;
}

/** The page that the domain got last. */
export function lastPage(xen: Xen, domain: Domain): number | undefined {
  const tail = xen.object('domain', domain.address).u64('page_list.tail');
  return tail === 0n ? undefined : frameOf(xen, tail);
}

/** The page that the domain got before this one. */
export function pageBefore(xen: Xen, frame: number): number | undefined {
  const before = pageInfo(xen, frame).num('list.prev') >>> 0;
  return before < frameCount(xen) ? before : undefined;
}

/** Whether a frame is a page in use of the domain. */
export function ownsPage(xen: Xen, domain: Domain, frame: number): boolean {
  if (frame >= frameCount(xen)) return false;
  const info = pageInfo(xen, frame);
  const inUse = (info.u64('count_info') & BigInt(xen.profile.constant('PGC_state'))) === 0n;
  return inUse && info.num('v.inuse._domain') >>> 0 === ownerNumber(xen, domain);
}

/** Whether a frame is a page in use of one of the domains: its own memory, or a page that Xen shares with it. */
export const isPageOfGuest = (xen: Xen, domains: readonly Domain[], frame: number): boolean =>
  domains.some((domain) => domain.kind !== 'idle' && ownsPage(xen, domain, frame));

/** Whether a frame is a page of the domain that nobody has begun to take away. */
export const isAllocatedTo = (xen: Xen, domain: Domain, frame: number): boolean =>
  ownsPage(xen, domain, frame) &&
  (pageInfo(xen, frame).u64('count_info') & BigInt(xen.profile.constant('PGC_allocated'))) !== 0n;

/** How a page names its owner: the page number of `struct domain`. */
const ownerNumber = (xen: Xen, { address }: Domain): number =>
  Number((address - BigInt(xen.profile.constant('DIRECTMAP_VIRT_START'))) >> 12n);

/** Where in its owner's physical address space a frame is; `undefined` where it is in none. */
export function guestFrameOf(xen: Xen, frame: number): bigint | undefined {
  const at = BigInt(xen.profile.constant('RDWR_MPT_VIRT_START')) + BigInt(8 * frame);
  if (!xen.memory.isMapped(at)) return undefined;
  const guestFrame = xen.memory.u64(at);
  return guestFrame === NOWHERE ? undefined : guestFrame;
}

/** Whether an HVM domain has something at this place of its physical address space, by its nested page tables. */
export function isInPhysmap(xen: Xen, domain: Domain, guestFrame: bigint): boolean {
  const p2m = xen.object('p2m_domain', domain.object.u64('arch.p2m'));
  const root = p2m.u64('phys_table') << 12n;
  return translate(xen.view, root, guestFrame << 12n) !== undefined;
}
