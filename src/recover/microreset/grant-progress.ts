/**
 * Lists of grants to map or unmap: repeated from the start, a map takes a second reference that nobody gives back, and an
 * unmap fails, which backends take for a bug of theirs. Xen writes each element's result back to the guest before it goes to
 * the next, and its table of mapped grants bears it out:
 * - mapped: status 0, and the entry behind the handle is of just this domain and grant;
 * - unmapped: status 0, and the entry behind the handle maps nothing any more.
 * The retry begins behind the last such element from the start of the list, as Xen itself does when it preempts the call.
 *
 * Other grant operations (copies, queries) may be repeated; what they had pinned is for `grant-pins`.
 */
import type { CpuState } from '../../xen/cpus.js';
import { guestBytes } from '../../xen/guest-memory.js';
import { hypercallProgress } from '../../xen/hypercalls.js';
import { maptrackEntry } from '../../xen/maptrack.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

const GRANT_TABLE_OP = 20;
/** public/grant_table.h; the upper bits of the command say how far a preempted copy is. */
const COMMAND_MASK = 0xfffn;
const OPERATIONS = new Map([
  [0n, { struct: 'gnttab_map_grant_ref', isDone: isMapped }],
  [1n, { struct: 'gnttab_unmap_grant_ref', isDone: isUnmapped }],
]);
/** GNTMAP_device_map and GNTMAP_host_map. */
const MAPPED = 3;
const LONGEST_LIST = 4096n;

export const grantProgress: Step = {
  name: 'grant-progress',
  removes: 'repetition of the finished part of lists of grants to map or unmap',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/grant_table.c',
  run(context) {
    for (const cpu of context.abandoned) if (cpu.current.domain.kind === 'pv') advance(context, cpu);
  },
};

function advance({ plan, xen, facts }: StepContext, cpu: CpuState): void {
  const progress = cpu.hypercall.state === 'in-progress' ? cpu.hypercall : hypercallProgress(xen, facts, cpu);
  if (progress.state !== 'in-progress' || !progress.started || progress.number !== GRANT_TABLE_OP) return;
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  const operation = OPERATIONS.get(frame.u64('rdi') & COMMAND_MASK);
  if (operation === undefined) return;
  const size = BigInt(xen.sizeOf(operation.struct));
  const list = frame.u64('rsi');
  const count = frame.u64('rdx') & 0xffff_ffffn;
  let done = 0n;
  while (done < count && done < LONGEST_LIST) {
    const bytes = guestBytes(xen, cpu.current.object, list + done * size, Number(size));
    if (bytes === undefined || !operation.isDone(xen, cpu, bytes)) break;
    done++;
  }
  // A call with nothing left to do does nothing, and answers as if it had done all.
  if (done === 0n) return;
  const reason = `${done} of ${count} grants of ${cpu.current.name} are done`;
  plan.set(frame, 'rsi', list + done * size, reason);
  plan.set(frame, 'rdx', count - done, reason);
  plan.found(reason);
}

const field = (xen: Xen, struct: string, bytes: Uint8Array, name: string): number => {
  const { offset, size } = xen.profile.struct(struct).field(name);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
};

function isMapped(xen: Xen, { current }: CpuState, bytes: Uint8Array): boolean {
  const of = (name: string): number => field(xen, 'gnttab_map_grant_ref', bytes, name);
  if (of('status') !== 0) return false;
  const entry = maptrackEntry(xen, current.domain, of('handle'));
  if (entry === undefined || (entry.num('flags') & MAPPED) !== (of('flags') & MAPPED)) return false;
  return entry.num('ref') === of('ref') && entry.num('domid') === of('dom');
}

function isUnmapped(xen: Xen, { current }: CpuState, bytes: Uint8Array): boolean {
  const of = (name: string): number => field(xen, 'gnttab_unmap_grant_ref', bytes, name);
  if (of('status') !== 0) return false;
  const entry = maptrackEntry(xen, current.domain, of('handle'));
  return entry !== undefined && (entry.num('flags') & MAPPED) === 0;
}
