/** Hypercalls: their names, and how far the one in progress is. */

import type { CpuRegisters } from '../x86/registers.js';
import type { Vcpu } from './domains.js';
import type { EntryFacts } from './entry.js';
import { wordsTooLow } from './entry-window.js';
import { guestBytes } from './guest-memory.js';
import { poppedFrame } from './popped-frame.js';
import type { SavedRegister } from './saved-registers.js';
import { type CpuStack, onStack, type TrapFrame } from './stack.js';
import type { Xen } from './xen.js';

/** What is known of a CPU whose thread may be a hypercall. */
export interface HypercallThread {
  readonly registers: Readonly<CpuRegisters>;
  readonly stack: CpuStack;
  readonly current: Vcpu;
  /** Traps taken inside Xen, innermost first. */
  readonly traps: readonly TrapFrame[];
  /** Registers that the entry code had not saved yet. */
  readonly unsaved: readonly SavedRegister[];
}

/** How far a PV guest's hypercall is. `none`: the frame is of an interrupt, an exception, or of user mode. */
export type HypercallProgress =
  | { readonly state: 'none' }
  /** `started` false: the entry code had not called `pv_hypercall` yet. */
  | { readonly state: 'in-progress'; readonly number: number; readonly name: string; readonly started: boolean }
  | { readonly state: 'finished' }
  /** A system call of a guest's process, on its way to the guest's kernel. */
  | { readonly state: 'forwarded-syscall' };

/** Names by number (Xen 4.17, public/xen.h). */
const NAMES = [
  ['set_trap_table', 'mmu_update', 'set_gdt', 'stack_switch', 'set_callbacks', 'fpu_taskswitch', 'sched_op_compat'],
  ['platform_op', 'set_debugreg', 'get_debugreg', 'update_descriptor', '', 'memory_op', 'multicall'],
  ['update_va_mapping', 'set_timer_op', 'event_channel_op_compat', 'xen_version', 'console_io', 'physdev_op_compat'],
  ['grant_table_op', 'vm_assist', 'update_va_mapping_otherdomain', 'iret', 'vcpu_op', 'set_segment_base', 'mmuext_op'],
  ['xsm_op', 'nmi_op', 'sched_op', 'callback_op', 'xenoprof_op', 'event_channel_op', 'physdev_op', 'hvm_op'],
  ['sysctl', 'domctl', 'kexec_op', 'tmem_op', 'argo_op', 'xenpmu_op', 'dm_op', 'hypfs_op'],
].flat();

export const hypercallName = (number: number): string => NAMES[number] || `hypercall ${number}`;

/** `TRAP_syscall` in `entry_vector`: the guest came by SYSCALL (Xen: asm-x86/processor.h). */
export const TRAP_SYSCALL = 256;

/** Xen 4.17 has 49 hypercalls; a larger value in rax is an answer (addresses, negative errors). Zero is one as well. */
const HYPERCALL_LIMIT = 64;
/** PV kernels live in the upper half of the address space, their processes in the lower. */
const USER_END = 1n << 47n;

/**
 * The slot just under the guest frame holds the return address of the call that the entry code is making, so it
 * tells whether `pv_hypercall` runs. It keeps its value after the call returned: it counts only while the abandoned
 * thread's stack pointer is below it. With the stack pointer at the frame itself the entry code was between calls: the
 * registers that it clears on the way in, and that no call preserves, tell on which side, as do registers not yet saved.
 */
export function hypercallProgress(xen: Xen, facts: EntryFacts, cpu: HypercallThread): HypercallProgress {
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  if ((frame.num('entry_vector') & TRAP_SYSCALL) === 0) return { state: 'none' };
  const code = guestBytes(xen, cpu.current.object, frame.u64('rip') - 2n, 2);
  // Only behind a SYSCALL instruction is there something to go back to.
  if (code === undefined || code[0] !== 0x0f || code[1] !== 0x05) return { state: 'none' };

  const fromUser = frame.u64('rip') < USER_END;
  const slot = xen.memory.u64(cpu.stack.guestFrame - 8n);
  const below = threadStackPointer(xen, cpu) < cpu.stack.guestFrame;
  const stuffing = below && facts.stuffingReturns.has(slot);
  const inCall = below && !stuffing;
  const entering = stuffing || (!inCall && isEntering(xen, cpu));
  if (fromUser) {
    const forwarding = inCall ? facts.forwardReturns.has(slot) : entering;
    return forwarding ? { state: 'forwarded-syscall' } : { state: 'none' };
  }
  const number = Number(frame.u64('rax') & 0xffff_ffffn);
  const asked = number > 0 && number < HYPERCALL_LIMIT;
  const hypercall = { number, name: hypercallName(number) };
  if (inCall) {
    if (!facts.hypercallReturns.has(slot) || !asked) return { state: 'finished' };
    return { state: 'in-progress', ...hypercall, started: true };
  }
  return asked && entering ? { state: 'in-progress', ...hypercall, started: false } : { state: 'finished' };
}

/**
 * The stack pointer of the thread that is abandoned: where it stood before the first trap that was taken inside Xen
 * (the failure itself, on the CPU that failed). A thread whose stack pointer was lost was somewhere deep in Xen, most likely;
 * one that is not in Xen's text is on its way in, still on its guest's stack.
 */
export function threadStackPointer(
  xen: Xen,
  { traps, registers, stack }: Pick<HypercallThread, 'traps' | 'registers' | 'stack'>,
): bigint {
  const rsp = traps.at(-1)?.rsp ?? registers.rsp;
  if (onStack(stack, rsp)) return rsp;
  return traps.length > 0 || xen.profile.isText(registers.rip) ? stack.base : stack.end;
}

/** Whether the CPU, between calls of the entry code, was on its way in. */
function isEntering(xen: Xen, cpu: HypercallThread): boolean {
  const trap = cpu.traps.at(-1);
  if (trap === undefined) {
    // A SYSCALL leads to a stub of the CPU's own, outside Xen's text.
    const { rip } = cpu.registers;
    return !xen.profile.isText(rip) || ENTRIES.has(xen.profile.resolve(rip)?.name ?? '');
  }
  if (wordsTooLow(xen, cpu.stack, trap) > 0) return false;
  if (trap.rsp > cpu.stack.guestFrame) return poppedFrame(xen, cpu.stack, trap) === undefined;
  // SYSCALL leaves the flags in r11.
  const rflags = xen.object('cpu_user_regs', cpu.stack.guestFrame).u64('rflags');
  if (cpu.unsaved.includes('r11') && trap.object.u64('r11') === rflags) return true;
  return (['rsi', 'r8', 'r9', 'r10', 'r11'] as const).every((name) => trap.object.u64(name) === 0n);
}

/** Code between a SYSCALL and the call of `pv_hypercall` or of the forwarding. */
const ENTRIES: ReadonlySet<string> = new Set(['lstar_enter', 'cstar_enter', 'switch_to_kernel']);
