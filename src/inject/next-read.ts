/**
 * The place in Xen's memory that a CPU reads next. A fault there is one that matters: the selection of locations by whether they are
 * about to be read is pre-injection analysis (Barbosa, Vinter, Folkesson and Karlsson, EDCC 2005), here without a trace, by the
 * CPU's own registers in front of the instruction.
 */
import { PAGE_SIZE } from '../x86/address.js';
import { readsOf } from '../x86/reads.js';
import { isPageOfGuest } from '../xen/domain-pages.js';
import { listDomains } from '../xen/domains.js';
import { countInXen } from './count.js';
import { instructionAt, instructionsWhere } from './instructions.js';
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
  const counts = instructionsWhere(site, ({ raw }) => readsOf(raw).length > 0);
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
  const told = instructionAt(site, state.registers.rip, ({ raw }) => ({ text: raw.toString(), reads: readsOf(raw) }));
  const { text, reads } = told!;
  const domains = listDomains(xen);
  for (const readBy of reads) {
    const { address, size } = readBy(state.registers);
    if (!xen.memory.isMapped(address)) continue;
    const frame = Math.floor(xen.memory.physicalAddress(address) / PAGE_SIZE);
    if (!isPageOfGuest(xen, domains, frame)) return { site, address, size: Math.max(1, size), text };
  }
  return undefined;
}
