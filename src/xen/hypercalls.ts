/** Hypercalls: their names, and how far the one in progress is. */

import { PAGE_SIZE, physical } from '../x86/address.js';
import { translate } from '../x86/paging.js';
import type { CpuState } from './cpus.js';
import { threadStackPointer } from './cpus.js';
import type { EntryFacts } from './entry.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** How far a PV guest's hypercall is. `none`: the frame is of an interrupt, an exception, or of user mode. */
export type HypercallProgress =
  | { readonly state: 'none' }
  /** `started` false: the entry code had not called `pv_hypercall` yet. */
  | { readonly state: 'in-progress'; readonly number: number; readonly name: string; readonly started: boolean }
  | { readonly state: 'finished'; readonly number: number; readonly name: string };

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

/**
 * The slot just under the guest frame holds the return address of the call that the entry code is making, so it
 * tells whether `pv_hypercall` runs. It keeps its value after the call returned: it counts only while the abandoned
 * thread's stack pointer is below it. With the stack pointer at the frame itself the entry code was between calls; what
 * the guest asked for still stands in rax until the answer replaces it.
 */
export function hypercallProgress(
  xen: Xen,
  facts: EntryFacts,
  cpu: Pick<CpuState, 'registers' | 'traps' | 'stack' | 'current'>,
): HypercallProgress {
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  if ((frame.num('entry_vector') & TRAP_SYSCALL) === 0) return { state: 'none' };
  const requested = requestedHypercall(xen, cpu.current.object, frame);
  if (requested === undefined) return { state: 'none' };
  const hypercall = { number: requested, name: hypercallName(requested) };
  const answered = Number(frame.u64('rax') & 0xffff_ffffn) !== requested;
  if (answered) return { state: 'finished', ...hypercall };
  if (threadStackPointer(cpu) >= cpu.stack.guestFrame) return { state: 'in-progress', ...hypercall, started: false };
  const calling = facts.hypercallReturns.has(xen.memory.u64(cpu.stack.guestFrame - 8n));
  return calling ? { state: 'in-progress', ...hypercall, started: true } : { state: 'finished', ...hypercall };
}

/**
 * The hypercall that the guest asked for, read from the guest's own code: Xen's hypercall page puts the number in
 * eax right before SYSCALL. The frame's rax will not do, since the answer is written there before the call returns.
 * `undefined` when the guest's instruction pointer is not behind such a stub.
 */
function requestedHypercall(xen: Xen, vcpu: XenObject, frame: XenObject): number | undefined {
  const code = guestBytes(xen, vcpu, frame.u64('rip') - 7n, 7);
  if (code === undefined || code[5] !== 0x0f || code[6] !== 0x05) return undefined;
  if (code[0] !== 0xb8) return undefined;
  return new DataView(code.buffer).getUint32(1, true);
}

/** Bytes of a PV guest's memory through the page tables it runs on; `undefined` where they are not mapped. */
export function guestBytes(xen: Xen, vcpu: XenObject, address: bigint, length: number): Uint8Array | undefined {
  const root = physical(vcpu.u64('arch.cr3') & 0x000f_ffff_ffff_f000n);
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const found = translate(xen.view, root, BigInt.asUintN(64, address + BigInt(i)));
    const page = found === undefined ? undefined : xen.view.page(Math.floor(found.physical / PAGE_SIZE));
    if (page === undefined) return undefined;
    out[i] = page[found!.physical % PAGE_SIZE]!;
  }
  return out;
}
