/** The registers of a CPU that has done nothing. */
import { type CpuRegisters, GENERAL_REGISTERS } from '../../src/x86/registers.js';

export function emptyRegisters(): CpuRegisters {
  const general = Object.fromEntries(GENERAL_REGISTERS.map((name) => [name, 0n]));
  const wide = ['rip', 'fsBase', 'gsBase', 'kernelGsBase', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'];
  const numeric = ['rflags', 'cs', 'ss', 'ds', 'es', 'fs', 'gs'];
  return {
    ...general,
    ...Object.fromEntries(wide.map((name) => [name, 0n])),
    ...Object.fromEntries(numeric.map((name) => [name, 0])),
  } as unknown as CpuRegisters;
}
