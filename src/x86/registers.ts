/** The registers of one CPU as the debugger stub gives them. 64-bit values are unsigned bigints. */
export interface CpuRegisters {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rbp: bigint;
  rsp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: number;
  cs: number;
  ss: number;
  ds: number;
  es: number;
  fs: number;
  gs: number;
  fsBase: bigint;
  gsBase: bigint;
  kernelGsBase: bigint;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
}

export type RegisterName = keyof CpuRegisters;

/** The 16 general registers in the order of the debugger stub's `g` packet. */
export const GENERAL_REGISTERS = [
  'rax',
  'rbx',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'rbp',
  'rsp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
] as const satisfies readonly RegisterName[];

/** The same in the order in which x86 encodes them in instructions. */
export const ENCODING_ORDER = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
] as const satisfies readonly RegisterName[];

export const RFLAGS = { CF: 1, PF: 1 << 2, ZF: 1 << 6, SF: 1 << 7, TF: 1 << 8, IF: 1 << 9, DF: 1 << 10 } as const;

/** Current privilege level: 0 is the hypervisor (or an HVM guest's kernel), 3 a PV guest. */
export const privilegeLevel = (registers: Pick<CpuRegisters, 'cs'>): number => registers.cs & 3;

/** Task switched: the next use of the floating-point unit traps. */
export const CR0_TS = 1n << 3n;
const CR0_PG = 1n << 31n;

/**
 * Whether a CPU was reset, or is in the state of one: it does not translate addresses, and of EFER nothing is set. An HVM guest may
 * well not use paging, but while it runs on AMD its EFER says that virtualisation is on (AMD64 manual volume 2, 15.5.1).
 */
export const lostItsMode = ({ cr0, efer }: Pick<CpuRegisters, 'cr0' | 'efer'>): boolean =>
  (cr0 & CR0_PG) === 0n && efer === 0n;
