/**
 * Entry windows: at the first instructions of an entry from a guest, and at the last ones of a return to it, the
 * guest's registers live in the CPU and not in the frame on its stack. Dropping the thread there would lose them.
 *
 * For a CPU that was merely frozen, the rest of the entry sequence is run on values. For the CPU that failed, the
 * failure's own trap frame holds the registers as they were, but its instruction pointer may be worthless; the stack
 * pointer and the registers themselves tell how far the sequence was (Xen 4.17 asm_defns.h: SAVE_ALL first moves the
 * stack pointer to the frame, then stores and clears one register after the other; RESTORE_ALL loads them and moves
 * the stack pointer last; around VMRUN they are popped and saved in the same frame).
 *
 * Damaged code that pushes a word on the way out has every register loaded from its neighbour's place, and IRET fails. Which one each
 * value belongs to follows from where IRET stood. A function of Xen's that left its stack pointer too high has popped registers from
 * the frame into others (`popped-frame.ts`).
 *
 * An HVM guest's frame is incomplete in one more way: rip, rsp, rflags and rax come from the VMCB, and Xen copies them
 * at the start of its exit handler. Whether that was done the failed CPU does not tell by its instruction pointer, but the
 * values do: an exit that is handled changes none of them but rax, and rip by one instruction. And between CLGI and STGI the CPU takes no interrupts whatever its flags say. Such a
 * CPU goes on at Xen's own STGI, which leads to the exit handler; where the exit had been handled already, the VMCB's
 * exit code is made that of an external interrupt, whose handling does nothing.
 */
import { emulate } from '../../x86/emulate.js';
import type { CpuState } from '../../xen/cpus.js';
import { unsavedRegisters, wordsTooLow } from '../../xen/entry-window.js';
import { TRAP_SYSCALL } from '../../xen/hypercalls.js';
import type { XenObject } from '../../xen/object.js';
import { poppedFrame } from '../../xen/popped-frame.js';
import { RESTORE_ORDER, SAVE_ORDER } from '../../xen/saved-registers.js';
import { isTrampoline, onStack, type TrapFrame } from '../../xen/stack.js';
import { vmcbOf } from '../../xen/vmcb.js';
import type { Xen } from '../../xen/xen.js';
import { note, type Step, type StepContext } from '../step.js';

/** Exits that no instruction of the guest caused: VMEXIT_INTR to VMEXIT_VINTR (AMD64 manual volume 2, appendix C). */
const ASYNCHRONOUS_EXITS = { first: 0x60n, last: 0x64n } as const;
const LONGEST_INSTRUCTION = 15n;
/** `VMEXIT_INTR`: a physical interrupt ended the guest's run (AMD64 manual volume 2, appendix C). */
const VMEXIT_INTR = 0x60n;
/** Selectors that Xen gives a 64-bit PV guest (public/arch-x86/xen-x86_64.h). */
const GUEST_CS = 0xe033;
const GUEST_SS = 0xe02b;

export const completeFrames: Step = {
  name: 'complete-frames',
  removes: 'guest registers that live in the CPU, since it stands in an entry or exit sequence',
  source: 'ours; Xen 4.17 x86_64/entry.S, hvm/svm/entry.S',
  run(context) {
    for (const cpu of context.abandoned) {
      if (cpu.current.domain.kind === 'idle') continue;
      if (cpu.guestTrap !== undefined) takeGuestTrap(context, cpu, cpu.guestTrap);
      else if (cpu.traps.length === 0) completeFrozen(context, cpu);
      else completeFailed(context, cpu);
    }
  },
};

/** What the guest had when its trap could not be delivered; back in the guest, it traps again. */
function takeGuestTrap({ plan, xen }: StepContext, { cpu, current, stack }: CpuState, trap: TrapFrame['object']): void {
  const frame = xen.object('cpu_user_regs', stack.guestFrame);
  const reason = `${current.name}: registers as of its trap on CPU ${cpu}`;
  for (const name of [...SAVE_ORDER, 'rip', 'cs', 'rflags', 'rsp', 'ss']) plan.set(frame, name, trap.u64(name), reason);
  for (const name of ['error_code', 'entry_vector']) plan.set(frame, name, 0, reason);
  plan.found(`CPU ${cpu}: ${current.name} was in its guest and could not deliver a trap`);
}

/** The instruction pointer is good: run on from it until the frame is complete. */
function completeFrozen(context: StepContext, cpu: CpuState): void {
  const { plan, xen, facts } = context;
  const { svm } = facts;
  const { registers, stack } = cpu;
  const { rip } = registers;
  if (cpu.current.domain.kind === 'hvm') {
    const handler = xen.symbol('svm_vmexit_handler');
    if (svm === undefined) return;
    const interrupted = returnsTo(xen, cpu);
    if (interrupted !== undefined && interrupted >= svm.stgi && interrupted <= svm.handlerReturn) {
      resumeAtStgi(context, cpu, 'pending');
      return;
    }
    const leaving = rip > svm.clgi && rip <= svm.vmrun;
    const returning = rip > svm.vmrun && rip <= svm.handlerReturn;
    const unsynced = rip >= handler && rip <= svm.handlerFirstCall;
    if (returning && rip < svm.stgi) saveRest();
    if (leaving || returning || unsynced) resumeAtStgi(context, cpu, leaving ? 'handled' : 'pending');
    return;
  }
  const entering = onStack(stack, registers.rsp) && registers.rsp >= stack.guestFrame;
  if ((entering || isTrampoline(xen, cpu.cpu, rip)) && !isExit(context, rip)) saveRest();

  function saveRest(): void {
    const state = { registers: { ...registers }, rip };
    const count = emulate(
      state,
      {
        code: (at) => (xen.memory.isMapped(at + 14n) ? xen.memory.bytes(at, 15) : xen.memory.bytes(at, 1)),
        read: (at, size) => (size === 8 ? xen.memory.u64(at) : BigInt(xen.memory.u32(at))),
        write: (at, size, value) => {
          plan.write(
            at,
            size as 1 | 2 | 4 | 8,
            value,
            `${cpu.current.name}: registers still in CPU ${cpu.cpu} are saved`,
          );
        },
      },
      () => false,
    );
    if (count > 0) plan.found(`CPU ${cpu.cpu}: ran ${count} instructions of ${xen.profile.describe(rip)} on values`);
  }
}

/**
 * Where a CPU goes back to that is at the end of an interrupt which it took with nothing else on its stack: interrupts that came
 * while a guest ran are taken at STGI, with the guest's registers saved and the exit handler not yet called.
 */
function returnsTo(xen: Xen, { registers: { rip, rsp }, stack: { guestFrame } }: CpuState): bigint | undefined {
  if (xen.profile.resolve(rip)?.name !== 'restore_all_xen') return undefined;
  const at = (guestFrame & ~15n) - BigInt(xen.profile.struct('cpu_user_regs').field('es').offset);
  if (rsp < at || rsp >= guestFrame) return undefined;
  const frame = xen.object('cpu_user_regs', at);
  return frame.u64('rsp') === guestFrame ? frame.u64('rip') : undefined;
}

/** On the way out the frame stays complete in memory until the guest runs. */
function isExit({ xen }: StepContext, rip: bigint): boolean {
  const name = xen.profile.resolve(rip)?.name;
  return name === 'restore_all_guest' || name === 'restore_all_xen' || name === 'iret_exit_to_guest';
}

/** The registers as of the failure come from the trap it caused. */
function completeFailed(context: StepContext, cpu: CpuState): void {
  const { plan, xen } = context;
  const trap = cpu.traps.at(-1)!;
  const { guestFrame, end } = cpu.stack;
  const frame = xen.object('cpu_user_regs', guestFrame);
  const hvm = cpu.current.domain.kind === 'hvm';
  const reason = `${cpu.current.name}: registers as of the failure on CPU ${cpu.cpu}`;
  if (!onStack(cpu.stack, trap.rsp)) {
    if (lostStackInEntry(context, cpu, frame, trap)) take(unsavedRegisters(xen, cpu, { ...trap, rsp: guestFrame }));
    return;
  }
  // All registers are saved, but the exit handler was not called yet.
  const stuffing = trap.rsp < guestFrame && context.facts.stuffingReturns.has(xen.memory.u64(guestFrame - 8n));
  if (stuffing && cpu.current.domain.kind === 'hvm') resumeAtStgi(context, cpu, 'pending');
  const handling = trap.rsp < guestFrame && xen.memory.u64(guestFrame - 8n) === context.facts.svm?.handlerReturn;
  if (handling && cpu.current.domain.kind === 'hvm' && !isSynced(frame, vmcbOf(xen, cpu.current))) {
    resumeAtStgi(context, cpu, 'pending');
  }
  if (trap.rsp < guestFrame || trap.rsp >= end) return;
  const low = hvm ? 0 : wordsTooLow(xen, cpu.stack, trap);
  if (low > 0) {
    takeShifted(low);
    return;
  }
  const popped = hvm ? undefined : poppedFrame(xen, cpu.stack, trap);
  if (popped !== undefined) {
    for (const [name, value] of popped) plan.set(frame, name, value, reason);
    plan.found(`CPU ${cpu.cpu}: ${popped.size} registers of ${cpu.current.name} had been popped into others`);
    return;
  }
  take(cpu.unsaved);
  if (!hvm) completeSyscallFrame();
  if (hvm) resumeAtStgi(context, cpu, exitIsPending(frame, vmcbOf(xen, cpu.current)) ? 'pending' : 'handled');

  function take(unsaved: CpuState['unsaved']): void {
    for (const name of unsaved) plan.set(frame, name, trap.object.u64(name), reason);
    if (unsaved.length > 0)
      plan.found(`CPU ${cpu.cpu}: ${unsaved.length} registers of ${cpu.current.name} taken from the failure's frame`);
  }

  /** Each register was loaded from the place of the one so many before it. The fault's own frame lies over those of the last ones. */
  function takeShifted(low: number): void {
    for (const [n, name] of RESTORE_ORDER.entries()) {
      const holder = RESTORE_ORDER[n + low];
      plan.set(frame, name, holder === undefined ? 0 : trap.object.u64(holder), reason);
    }
    const lost = RESTORE_ORDER.slice(-low);
    plan.found(`CPU ${cpu.cpu}: registers of ${cpu.current.name} were loaded into others; lost: ${lost.join(', ')}`);
  }

  /** SYSCALL pushes nothing; Xen's entry code builds the upper part of the frame word by word. */
  function completeSyscallFrame(): void {
    const slot = (path: string): bigint => frame.at(path);
    if (trap.rsp <= slot('error_code')) return;
    if (trap.rsp > slot('rip')) {
      const guestStack = trap.rsp >= slot('ss') ? trap.object.u64('rax') : xen.memory.u64(slot('rsp'));
      const keptInSs = xen.memory.u64(slot('ss'));
      plan.set(frame, 'rax', keptInSs === BigInt(GUEST_SS) ? trap.object.u64('rax') : keptInSs, reason);
      plan.write(slot('rsp'), 8, guestStack, reason);
      plan.write(slot('ss'), 8, GUEST_SS, reason);
      plan.write(slot('rflags'), 8, trap.object.u64('r11'), reason);
      plan.write(slot('cs'), 8, GUEST_CS, reason);
      plan.write(slot('rip'), 8, trap.object.u64('rcx'), reason);
    }
    const bySyscall = frame.u64('rip') === trap.object.u64('rcx') && frame.u64('rflags') === trap.object.u64('r11');
    plan.set(frame, 'error_code', 0, reason);
    plan.set(frame, 'entry_vector', bySyscall ? TRAP_SYSCALL : 0, reason);
  }
}

/**
 * Damaged code took the stack pointer away while the entry of an interrupt of a PV guest saved its registers: the stack pointer was at
 * the guest's frame until then. The frame has the interrupt's vector, which is in service still.
 */
function lostStackInEntry({ xen }: StepContext, cpu: CpuState, frame: XenObject, { rip }: TrapFrame): boolean {
  const entering = xen.profile.isText(rip) && xen.profile.resolve(rip)?.name === 'common_interrupt';
  const vector = frame.num('entry_vector') & 0xff;
  return entering && cpu.current.domain.kind === 'pv' && xen.view.lapic(cpu.cpu).inService.includes(vector);
}

/** Whether the exit handler has copied the guest's position from the VMCB to the frame, with what it may have changed since. */
function isSynced(frame: XenObject, vmcb: XenObject): boolean {
  if (frame.u64('rsp') !== vmcb.u64('rsp')) return false;
  const exit = vmcb.u64('exitcode');
  const asynchronous = exit >= ASYNCHRONOUS_EXITS.first && exit <= ASYNCHRONOUS_EXITS.last;
  if (asynchronous) return frame.u64('rip') === vmcb.u64('rip') && frame.u64('rax') === vmcb.u64('rax');
  const advanced = frame.u64('rip') - vmcb.u64('rip');
  return advanced >= 0n && advanced <= LONGEST_INSTRUCTION;
}

/** The guest ran since Xen last entered it: its position in the VMCB differs from the one it was entered with. */
const exitIsPending = (frame: XenObject, vmcb: XenObject): boolean =>
  vmcb.u64('rip') !== frame.u64('rip') || vmcb.u64('rsp') !== frame.u64('rsp');

function resumeAtStgi(context: StepContext, cpu: CpuState, exit: 'pending' | 'handled'): void {
  const { plan, xen, facts } = context;
  const vmcb = vmcbOf(xen, cpu.current);
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  const reason = `${cpu.current.name}: as its VMCB has it`;
  for (const name of ['rip', 'rsp', 'rflags', 'rax'] as const) plan.set(frame, name, vmcb.u64(name), reason);
  if (exit === 'handled') plan.set(vmcb, 'exitcode', VMEXIT_INTR, `${cpu.current.name}: its last exit was handled`);
  // The loop around VMRUN keeps the vCPU in rbx.
  context.destinations.set(cpu.cpu, { rip: facts.svm!.stgi, rsp: cpu.stack.guestFrame, rbx: cpu.current.address });
  plan.found(`CPU ${cpu.cpu}: ${cpu.current.name} stood ${exit === 'handled' ? 'before' : 'after'} VMRUN`);
  note(context, cpu.cpu, 'goes through STGI');
}
