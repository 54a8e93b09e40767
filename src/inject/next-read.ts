/**
 * The place in Xen's memory that a CPU reads next. A fault there is one that matters: the selection of locations by whether they are
 * about to be read is pre-injection analysis (Barbosa, Vinter, Folkesson and Karlsson, EDCC 2005), here without a trace, by the
 * CPU's own registers in front of the instruction.
 */
import { PAGE_SIZE } from '../x86/address.js';
import { decode } from '../x86/decode.js';
import { type ReadBy, readsOf } from '../x86/reads.js';
import { isPageOfGuest } from '../xen/domain-pages.js';
import { listDomains } from '../xen/domains.js';
import { countInXen } from './count.js';
import type { NotReached, Site } from './model.js';

/** A read that takes longer to come by is not waited for, in milliseconds of host time. */
const READ_LIMIT_MS = 3000;

export interface NextRead {
  /** The CPU stands in front of the instruction that reads. */
  readonly site: Site;
  readonly address: bigint;
  /** Bytes, at least 1. */
  readonly size: number;
  /** The instruction, for people. */
  readonly text: string;
}

/**
 * Lets the CPU of the site execute Xen until its next instruction reads RAM that is Xen's own: not a guest's, nor shared with one.
 * The machine is frozen afterwards.
 */
export async function runToNextRead(site: Site): Promise<NextRead | NotReached> {
  const deadline = performance.now() + READ_LIMIT_MS;
  const counts = instructionsThatRead(site);
  let from = site;
  for (let instructions = 0; ; instructions = 1) {
    const reached = await countInXen(from, { instructions, deadline, counts });
    if (reached.kind === 'not-reached') return { kind: 'not-reached', why: 'nothing of Xen was read' };
    from = reached.site;
    const read = readOfXen(from);
    if (read !== undefined) return read;
  }
}

function readOfXen(site: Site): NextRead | undefined {
  const { state, xen } = site;
  const { text, reads } = instructionAt(site, state.registers.rip)!;
  const domains = listDomains(xen);
  for (const readBy of reads) {
    const { address, size } = readBy(state.registers);
    if (!xen.memory.isMapped(address)) continue;
    const frame = Math.floor(xen.memory.physicalAddress(address) / PAGE_SIZE);
    if (!isPageOfGuest(xen, domains, frame)) return { site, address, size: Math.max(1, size), text };
  }
  return undefined;
}

/** Whether the instruction at an address reads memory. */
function instructionsThatRead(site: Site): (rip: bigint) => boolean {
  const known = new Map<bigint, boolean>();
  return (rip) => {
    let is = known.get(rip);
    if (is === undefined) {
      is = (instructionAt(site, rip)?.reads.length ?? 0) > 0;
      known.set(rip, is);
    }
    return is;
  };
}

function instructionAt({ xen }: Site, rip: bigint): { text: string; reads: readonly ReadBy[] } | undefined {
  for (const { raw } of decode(xen.memory.bytes(rip, 15), rip)) return { text: raw.toString(), reads: readsOf(raw) };
  return undefined;
}
