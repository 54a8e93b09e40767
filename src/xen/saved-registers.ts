/** The registers of a guest that entry code of Xen's keeps in the frame at the end of the stack (Xen 4.17 asm_defns.h). */
import type { GENERAL_REGISTERS } from '../x86/registers.js';

export type SavedRegister = Exclude<(typeof GENERAL_REGISTERS)[number], 'rsp'>;

/** In the order in which SAVE_ALL stores and clears them. */
export const SAVE_ORDER: readonly SavedRegister[] = [
  'rdi',
  'rsi',
  'rdx',
  'rcx',
  'rax',
  'r8',
  'r9',
  'r10',
  'r11',
  'rbx',
  'rbp',
  'r12',
  'r13',
  'r14',
  'r15',
];
/** What RESTORE_ALL loads, in the order of the frame. */
export const RESTORE_ORDER: readonly SavedRegister[] = [...SAVE_ORDER].reverse();
