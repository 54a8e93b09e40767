/**
 * Hypercalls that carry a list: a retry from the start would repeat elements that had their effect already, and some
 * may not be repeated (pinning a pinned page table fails, and Linux treats that as a bug of its own).
 *
 * - multicall: Xen keeps a copy of the element it works on in `vcpu.mc_state.call`; the element of the guest's list that
 *   equals it is where the retry begins. The mark "inside a multicall" is taken away, or the retry would be refused.
 * - mmuext_op: whether a page table is pinned says whether a pin or unpin was carried out; the retry begins behind the
 *   last one that was. The same inside a multicall.
 *
 * ReHype keeps a completion log for this, written in normal operation; read afterwards from what is there, it costs
 * nothing.
 */

import type { CpuState } from '../../xen/cpus.js';
import { translatePageFrame } from '../../xen/frames.js';
import { guestBytes, guestInDirectMap } from '../../xen/guest-memory.js';
import { hypercallProgress } from '../../xen/hypercalls.js';
import type { XenObject } from '../../xen/object.js';
import { note, type Step, type StepContext } from '../step.js';

const MULTICALL = 13;
const MMUEXT_OP = 26;
/** `struct multicall_entry`: op, result, six arguments. */
const MULTICALL_ENTRY = { size: 64n, arguments: 16 } as const;
/** `struct mmuext_op`: command, two arguments. */
const MMUEXT_ENTRY = { size: 24n, mfn: 8 } as const;
/** MMUEXT_PIN_L1_TABLE to MMUEXT_PIN_L4_TABLE (public/xen.h). */
const LAST_PIN = 3;
const UNPIN = 4;
/** `MMU_UPDATE_PREEMPTED`: set in the count of a continued call. */
const PREEMPTED = 0x8000_0000n;
const LONGEST_LIST = 4096n;

export const batchProgress: Step = {
  name: 'batch-progress',
  removes: 'repetition of the finished part of hypercalls that carry a list',
  source: 'Le and Tamir, UCLA TR 140019: per-call completion log for multicalls; deciding it afterwards is ours',
  run(context) {
    for (const cpu of context.abandoned) {
      if (cpu.current.domain.kind === 'idle') continue;
      const inside = context.plan.set(
        cpu.current.object,
        'mc_state.flags',
        0,
        `${cpu.current.name} is in no multicall`,
      );
      if (cpu.current.domain.kind === 'pv') advance(context, cpu, inside);
    }
  },
};

function advance(context: StepContext, cpu: CpuState, insideMulticall: boolean): void {
  const { xen, plan } = context;
  const progress = cpu.hypercall.state === 'in-progress' ? cpu.hypercall : hypercallProgress(xen, context.facts, cpu);
  if (progress.state !== 'in-progress' || !progress.started) return;
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  if (progress.number === MMUEXT_OP) {
    const done = finishedMmuextOps(context, cpu, frame.u64('rdi'), frame.u64('rsi'));
    if (done > 0n) skip(context, cpu, frame, done, MMUEXT_ENTRY.size, 'page-table operations');
  } else if (progress.number === MULTICALL && insideMulticall) {
    const list = frame.u64('rdi');
    const index = currentElement(context, cpu, list, frame.u64('rsi'));
    if (index === undefined) {
      plan.found(`${cpu.current.name}: the multicall's element under way is not in its list`);
      return;
    }
    const finished = finishInside(context, cpu, list + index * MULTICALL_ENTRY.size);
    const done = finished ? index + 1n : index;
    if (done > 0n) skip(context, cpu, frame, done, MULTICALL_ENTRY.size, 'multicall elements');
  }
}

/** Has the retry begin behind `done` elements: what Xen itself does when it preempts such a call. */
function skip({ plan }: StepContext, cpu: CpuState, frame: XenObject, done: bigint, size: bigint, what: string): void {
  const reason = `${done} ${what} of ${cpu.current.name} are done`;
  plan.set(frame, 'rdi', frame.u64('rdi') + done * size, reason);
  plan.set(frame, 'rsi', frame.u64('rsi') - done, reason);
  plan.found(reason);
}

/** Index of the element that Xen was working on. */
function currentElement({ xen }: StepContext, cpu: CpuState, list: bigint, count: bigint): bigint | undefined {
  const vcpu = cpu.current.object;
  const { size, arguments: argumentsAt } = MULTICALL_ENTRY;
  const wanted = xen.memory.bytes(vcpu.at('mc_state.call'), Number(size));
  const same = (element: Uint8Array): boolean =>
    wanted.every((byte, i) => (i >= 8 && i < argumentsAt) || byte === element[i]);
  for (let index = 0n; index < count && index < LONGEST_LIST; index++) {
    const element = guestBytes(xen, vcpu, list + index * size, Number(size));
    if (element !== undefined && same(element)) return index;
  }
  return undefined;
}

/**
 * An mmuext_op inside a multicall: finished elements are taken out of it, as Xen does when it preempts one. Says whether
 * nothing is left, in which case its result is written.
 */
function finishInside(context: StepContext, cpu: CpuState, element: bigint): boolean {
  const { xen, plan } = context;
  const vcpu = cpu.current.object;
  const bytes = guestBytes(xen, vcpu, element, Number(MULTICALL_ENTRY.size));
  const at = guestInDirectMap(xen, vcpu, element);
  if (bytes === undefined || at === undefined) return false;
  const view = new DataView(bytes.buffer);
  if (view.getBigUint64(0, true) !== BigInt(MMUEXT_OP)) return false;
  const list = view.getBigUint64(MULTICALL_ENTRY.arguments, true);
  const count = view.getBigUint64(MULTICALL_ENTRY.arguments + 8, true);
  const done = finishedMmuextOps(context, cpu, list, count);
  if (done === 0n) return false;
  const reason = `${done} page-table operations in a multicall of ${cpu.current.name} are done`;
  plan.found(reason);
  note(context, cpu.cpu, 'finished operations are not repeated');
  if (done === (count & ~PREEMPTED)) {
    plan.write(at + 8n, 8, 0, reason);
    return true;
  }
  plan.write(at + BigInt(MULTICALL_ENTRY.arguments), 8, list + done * MMUEXT_ENTRY.size, reason);
  plan.write(at + BigInt(MULTICALL_ENTRY.arguments) + 8n, 8, count - done, reason);
  return false;
}

/** How many elements at the start of an mmuext_op list had their effect. */
function finishedMmuextOps({ xen }: StepContext, cpu: CpuState, list: bigint, count: bigint): bigint {
  const pinned = BigInt(xen.profile.constant('PGT_pinned'));
  let done = 0n;
  for (let index = 0n; index < (count & ~PREEMPTED) && index < LONGEST_LIST; index++) {
    const bytes = guestBytes(xen, cpu.current.object, list + index * MMUEXT_ENTRY.size, Number(MMUEXT_ENTRY.size));
    if (bytes === undefined) break;
    const view = new DataView(bytes.buffer);
    const command = view.getUint32(0, true);
    if (command > UNPIN) continue;
    const info = translatePageFrame(xen, view.getBigUint64(MMUEXT_ENTRY.mfn, true));
    if (info === undefined) break;
    const isPinned = (info.u64('u.inuse.type_info') & pinned) !== 0n;
    if (command <= LAST_PIN ? isPinned : !isPinned) done = index + 1n;
  }
  return done;
}
