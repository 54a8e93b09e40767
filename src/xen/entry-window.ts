/**
 * How far the entry from a guest was when the CPU failed there: which of the guest's registers are not in the frame on its stack yet.
 * The failure's own trap frame holds them; its instruction pointer may be worthless, so the stack pointer and the registers
 * themselves have to tell (Xen 4.17 asm_defns.h: SAVE_ALL first moves the stack pointer to the frame, then stores and clears one
 * register after the other; RESTORE_ALL loads them and moves the stack pointer last; around VMRUN they are popped and saved in the
 * same frame).
 */
import type { CpuState } from './cpus.js';
import { poppedFrame } from './popped-frame.js';
import { SAVE_ORDER, type SavedRegister } from './saved-registers.js';
import { onStack, type TrapFrame } from './stack.js';
import type { Xen } from './xen.js';

/** Stacks are 32 KiB and aligned: the bits of an address that say where in its stack it lies. */
const STACK_OFFSET_MASK = 0x7fffn;
/**
 * Addresses of Xen that no PV guest can use (Xen 4.17 asm/config.h), nor what a 64-bit Linux keeps in reserve for a hypervisor
 * (Documentation/arch/x86/x86_64/mm.rst). What lies below them is readable to guests: the table from machine to guest frames.
 */
const XEN_POINTERS = { first: 0xffff_8200_0000_0000n, last: 0xffff_87ff_ffff_ffffn } as const;

/** Which registers are not in the frame, judged by the stack pointer and by which registers are cleared already. */
export function unsavedRegisters(
  xen: Xen,
  { stack, current }: Pick<CpuState, 'stack' | 'current'>,
  { object: trap, rip, rsp }: Pick<TrapFrame, 'object' | 'rip' | 'rsp'>,
): SavedRegister[] {
  const { guestFrame, end } = stack;
  if (!onStack(stack, rsp) || rsp < guestFrame || rsp >= end) return [];
  const frame = xen.object('cpu_user_regs', guestFrame);
  // Popped one by one on the way to VMRUN, or none saved yet: all that lie below the stack pointer.
  if (rsp > guestFrame) {
    if (current.domain.kind === 'pv' && poppedFrame(xen, stack, { object: trap, rip, rsp }) !== undefined) return [];
    return SAVE_ORDER.filter((name) => frame.at(name) < rsp && !(current.domain.kind === 'hvm' && name === 'rax'));
  }
  // What follows SAVE_ALL first computes the end of the stack, in r14 or rbx. Whoever stands there later, such as at the
  // end of a context switch, has pointers of Xen in its registers: none of them is the guest's any more.
  const scratch = [trap.u64('r14'), trap.u64('rbx')];
  if (scratch.includes(STACK_OFFSET_MASK) || SAVE_ORDER.some((name) => isXenPointer(trap.u64(name)))) return [];
  if (SAVE_ORDER.every((name) => isLoaded(name))) return [];
  const firstUnsaved = SAVE_ORDER.findIndex((name) => trap.u64(name) !== 0n);
  return firstUnsaved < 0 ? [] : SAVE_ORDER.slice(firstUnsaved);

  function isLoaded(name: SavedRegister): boolean {
    return name === 'rdi' || name === 'rsi' || trap.u64(name) === frame.u64(name);
  }
}

/** IRET, with a REX prefix for 64 bits. */
const IRETQ = [0x48, 0xcf] as const;
const GENERAL_PROTECTION = 13;
/** Bits of a selector that a fault's error code tells. */
const SELECTOR_MASK = 0xfffcn;

/**
 * By how many words the stack pointer was too low when a CPU left for a PV guest, such as after damaged code pushed something before
 * RESTORE_ALL: its IRET failed below the place of the guest's rip. It took another word for the code segment then, which the fault's
 * error code tells, and each register had been loaded from another one's place. 0 where that is not so.
 */
export function wordsTooLow(
  xen: Xen,
  { guestFrame }: Pick<CpuState['stack'], 'guestFrame'>,
  { object, rip, rsp, vector }: Pick<TrapFrame, 'object' | 'rip' | 'rsp' | 'vector'>,
): number {
  const place = xen.object('cpu_user_regs', guestFrame).at('rip');
  if (vector !== GENERAL_PROTECTION || rsp <= guestFrame || rsp >= place || !xen.profile.isText(rip)) return 0;
  const code = xen.memory.bytes(rip, IRETQ.length);
  if (IRETQ.some((byte, n) => code[n] !== byte)) return 0;
  const told = object.u64('error_code') & 0xffff_ffffn;
  return told === (xen.memory.u64(rsp + 8n) & SELECTOR_MASK) ? Number((place - rsp) / 8n) : 0;
}

/** A guest has no use for such a value: Xen keeps that part of the address space to itself. */
const isXenPointer = (value: bigint): boolean => value >= XEN_POINTERS.first && value <= XEN_POINTERS.last;
