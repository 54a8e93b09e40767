/** The registers of a CPU that has done nothing but enter long mode. */
import { type CpuRegisters, GENERAL_REGISTERS } from '../../src/x86/registers.js';

export function emptyRegisters(): CpuRegisters {
  const general = Object.fromEntries(GENERAL_REGISTERS.map((name) => [name, 0n]));
  const wide = ['rip', 'fsBase', 'gsBase', 'kernelGsBase', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'];
  const numeric = ['rflags', 'cs', 'ss', 'ds', 'es', 'fs', 'gs'];
  return {
    ...general,
    ...Object.fromEntries(wide.map((name) => [name, 0n])),
    ...Object.fromEntries(numeric.map((name) => [name, 0])),
    cr0: 0x8005_0033n,
    efer: 0x1d01n,
  } as unknown as CpuRegisters;
}
