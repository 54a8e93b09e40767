/**
 * A PV guest's event, exception or system call is delivered by `create_bounce_frame` (Xen 4.17, x86_64/entry.S), which
 * builds a frame on the guest's kernel stack and then rewrites the frame on Xen's. Dropped half way it leaves traces that
 * a second delivery, which Xen makes by itself when the CPU goes on, would build upon:
 * - the privilege level in the frame's cs is cleared for a while: a return to it would be one to Xen;
 * - the guest's event mask is set before the frame says what it was;
 * - a process's page tables were exchanged for its kernel's while the frame is still the process's;
 * - the request to deliver itself is there already.
 *
 * And a trap taken with the stack pointer at the very top of Xen's stack writes over the last word of the frame, the stack segment;
 * what lies behind a stack belongs to others, and damaged code that stores with a wrong sign hits frames from there. A CPU that is
 * idle has the frame of the vCPU that it ran last. Of a frame that was written over as a whole nothing else tells what it was; with
 * a code segment of its kernel's the guest finds out itself, while without one every return to it is a failure of Xen's.
 *
 * On the way out Xen sets the interrupt flag in the frame and clears IOPL. Where the stack pointer is a word too low, that happens to the
 * code segment instead, and the guest would be told of a segment that it does not have. One of Xen's own code segments, which
 * a 64-bit guest's kernel and its processes may both run on (Linux: `extra_user_64bit_cs`), does where the former is not known.
 *
 * The frame on Xen's stack is rewritten last: flags, stack, selectors, and the instruction pointer at the very end, whereupon the
 * request to deliver is withdrawn. From the moment that its stack pointer is the new one the delivery is completed instead: what the
 * guest was doing is on its own stack then, and delivered once more it would find itself inside its own handler.
 *
 * CPUs that did not fail are run to the end of it before anything is planned (`guard/settle.ts`). This step is for the one
 * that failed there.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { Vcpu } from '../../xen/domains.js';
import { guestBytes } from '../../xen/guest-memory.js';
import { threadStackPointer } from '../../xen/hypercalls.js';
import { type Step, type StepContext, TF_KERNEL_MODE } from '../step.js';

const RING_3 = 3;
/** A PV guest always runs with interrupts on: Xen takes an exception from one that does not for a failure of its own. */
const INTERRUPT_FLAG = 1n << 9n;
/** IOPL, nested task, virtual 8086 mode: what Xen itself takes out of the flags that a guest asks for. */
const FORBIDDEN_FLAGS = (3n << 12n) | (1n << 14n) | (1n << 17n);
/** Selectors of a PV guest's kernel (Xen: public/arch-x86/xen-x86_64.h). */
const FLAT_KERNEL = { cs: 0xe033, ss: 0xe02b } as const;
/** From here on a PV guest's segment table is Xen's (Xen: public/arch-x86/xen.h); a 64-bit one gets one stack segment there. */
const RESERVED_SELECTORS = 0xe000;
/** The bit of a selector that stands for the guest's other table (LDT). */
const LOCAL_TABLE = 1 << 2;
/** `TRAP_syscall` in `entry_vector`: the CPU goes back by SYSRET where it can. */
const TRAP_SYSCALL = 0x100;
/**
 * Words of a delivery on the guest's stack: RCX, R11, for some exceptions an error code, then RIP, CS, RFLAGS, RSP, SS. With no error
 * code these are all: where a process was interrupted, its kernel's stack ends behind them, and the page as well.
 */
const DELIVERY_WORDS = 7;
const RIP_PLACES = [2, 3] as const;
/** Bytes between a delivery on the guest's stack and what was there before, at most: its words, and alignment. */
const DELIVERY_REACH = 0x60n;
/** PV kernels live in the upper half of the address space, their processes in the lower. */
const USER_END = 1n << 47n;

export const bounceFrames: Step = {
  name: 'bounce-frames',
  removes: 'traces of a delivery to a PV guest that was dropped half way',
  source: 'ours; Xen 4.17 x86_64/entry.S',
  run(context) {
    for (const cpu of context.abandoned) if (cpu.current.domain.kind === 'pv') repair(context, cpu);
    for (const cpu of context.situation.cpus) {
      const isIdle = cpu.current.domain.kind === 'idle' && cpu.loaded.domain.kind === 'pv';
      if (isIdle) repairSelectors(context, cpu.loaded, cpu);
    }
  },
};

function repair(context: StepContext, cpu: CpuState): void {
  const { plan, xen, facts } = context;
  const { current, stack } = cpu;
  const frame = xen.object('cpu_user_regs', stack.guestFrame);
  const cs = repairSelectors(context, current, cpu);
  const flags = frame.u64('rflags');
  const legal = (flags & ~FORBIDDEN_FLAGS) | INTERRUPT_FLAG;
  if (cs !== 0 && plan.set(frame, 'rflags', legal, `${current.name} runs with interrupts on and without privileges`)) {
    plan.found(`${current.name}: flags in its frame restored`);
  }
  const sp = threadStackPointer(xen, cpu);
  const delivery = facts.bounceReturns.get(xen.memory.u64(stack.guestFrame - 8n));
  if (sp >= stack.guestFrame || delivery === undefined) {
    withdraw(context, cpu);
    return;
  }
  if (isDelivered(context, cpu)) return;
  withdraw(context, cpu);
  const fromUser = frame.u64('rip') < USER_END;
  if (fromUser && delivery !== 'syscall' && (current.object.num('arch.flags') & TF_KERNEL_MODE) !== 0) {
    plan.call(cpu.cpu, 'toggle_guest_mode', [current.address], `${current.name} goes back to its process`);
    plan.found(`${current.name}: was between its process and its kernel`);
  }
  // An event is delivered only while the mask is clear, and a process runs with it clear.
  if (delivery !== 'event' && !fromUser) return;
  const info = xen.object('vcpu_info', current.object.u64('vcpu_info'));
  if (plan.set(info, 'evtchn_upcall_mask', 0, `${current.name} had not masked its events`)) {
    plan.found(`${current.name}: its events were masked too early`);
  }
}

/**
 * What the guest was to be told comes again by itself: an exception with its instruction, an event since it is pending. A request that
 * is left is carried out with the next exception that Xen mends by itself, in the middle of something else.
 */
function withdraw({ plan }: StepContext, { current }: CpuState): void {
  if (plan.set(current.object, 'arch.pv.trap_bounce.flags', 0, `what ${current.name} was to be told comes again`))
    plan.found(`${current.name}: a request to deliver is withdrawn`);
}

/** Those of the frame on a CPU's stack, which is this vCPU's. @returns the code segment that the frame had */
function repairSelectors(
  { plan, xen }: StepContext,
  { name, address, object }: Vcpu,
  { stack, loaded, where }: CpuState,
): number {
  const entries = object.num('arch.pv.gdt_ents');
  const frame = xen.object('cpu_user_regs', stack.guestFrame);
  // Of a vCPU that is not loaded yet the frame is still that of another.
  const isLost = frame.num('cs') === 0 && where === 'xen' && loaded.address === address;
  if (isLost) {
    plan.set(
      frame,
      'cs',
      FLAT_KERNEL.cs,
      `${name} fails by itself: its frame is lost, and a return to it would be one to Xen`,
    );
    plan.found(`${name}: its frame was written over; it has a code segment again`);
  }
  const cs = frame.num('cs');
  if (cs !== 0) {
    const inRing3 = cs | RING_3;
    if (cs !== inRing3) plan.found(`${name}: privilege level in its frame restored`);
    if (isBeyondTable(inRing3)) plan.found(`${name}: code segment in its frame restored`);
    plan.set(
      frame,
      'cs',
      isBeyondTable(inRing3) ? replacement(inRing3) : inRing3,
      `${name} runs in ring 3, in a segment`,
    );
  }
  const ss = frame.num('ss');
  const isNone = ss === 0 || (cs === FLAT_KERNEL.cs && ss >= RESERVED_SELECTORS && ss !== FLAT_KERNEL.ss);
  if (cs !== 0 && isNone) {
    plan.set(frame, 'ss', FLAT_KERNEL.ss, `${name} cannot run in ring 3 without a stack segment`);
    plan.found(`${name}: stack segment in its frame restored`);
  }
  return cs;

  function replacement(selector: number): number {
    const unmarked = selector & ~Number(INTERRUPT_FLAG);
    return isBeyondTable(unmarked) ? FLAT_KERNEL.cs : unmarked;
  }

  /** A segment of the guest's own table, which has not so many. */
  function isBeyondTable(selector: number): boolean {
    return (selector & LOCAL_TABLE) === 0 && selector < RESERVED_SELECTORS && selector >> 3 >= entries;
  }
}

/** Whether the delivery has come so far that it stands, and completes it. */
function isDelivered({ plan, xen }: StepContext, { current, stack }: CpuState): boolean {
  const target = current.object.u64('arch.pv.trap_bounce.eip');
  if (target === 0n) return true;
  const frame = xen.object('cpu_user_regs', stack.guestFrame);
  if (frame.u64('rip') !== target) {
    if (!isOnGuestStack()) return false;
    const reason = `the delivery to ${current.name} is completed`;
    plan.set(frame, 'entry_vector', frame.num('entry_vector') | TRAP_SYSCALL, reason);
    plan.set(frame, 'ss', FLAT_KERNEL.ss, reason);
    plan.set(frame, 'cs', FLAT_KERNEL.cs, reason);
    plan.set(frame, 'rip', target, reason);
    plan.found(`${current.name}: a delivery was all but complete`);
  }
  plan.set(current.object, 'arch.pv.trap_bounce.eip', 0, `${current.name} got its delivery`);
  plan.set(current.object, 'arch.pv.trap_bounce.flags', 0, `${current.name} got its delivery`);
  return true;

  /** Whether the frame's stack pointer is that of a delivery which says that it interrupted what the frame says is running. */
  function isOnGuestStack(): boolean {
    const rsp = frame.u64('rsp');
    const bytes = guestBytes(xen, current.object, rsp, 8 * DELIVERY_WORDS);
    if (bytes === undefined) return false;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const word = (n: number): bigint => view.getBigUint64(8 * n, true);
    return RIP_PLACES.some((place) => {
      const before = word(place + 3);
      const fromUser = word(place) < USER_END;
      return word(place) === frame.u64('rip') && (fromUser || (before > rsp && before - rsp <= DELIVERY_REACH));
    });
  }
}
