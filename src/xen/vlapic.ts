/** An HVM guest's virtual interrupt controller (Xen 4.17, arch/x86/hvm/vlapic.c): its registers lie in a page of their own. */
import type { Vcpu } from './domains.js';
import type { Xen } from './xen.js';

/** Offsets of the "in service" and "requested" registers (AMD64 manual volume 2, chapter 16): 8 words, 16 bytes apart. */
const REGISTERS = { inService: 0x100n, requested: 0x200n } as const;
const WORDS = 8;

/** One bit of such a register. */
export interface VectorBit {
  /** The 32-bit word that holds it. */
  readonly address: bigint;
  readonly mask: number;
}

/** The highest vector that is in service; `undefined` when there is none or the vCPU has no controller. */
export function highestInService(xen: Xen, vcpu: Vcpu): number | undefined {
  const page = registersOf(xen, vcpu);
  if (page === undefined) return undefined;
  for (let word = WORDS - 1; word >= 0; word--) {
    const bits = xen.memory.u32(page + REGISTERS.inService + BigInt(16 * word));
    if (bits !== 0) return 32 * word + 31 - Math.clz32(bits);
  }
  return undefined;
}

/** Where a vector's bit is. The vCPU has a controller. */
export function vectorBit(xen: Xen, vcpu: Vcpu, register: keyof typeof REGISTERS, vector: number): VectorBit {
  const address = registersOf(xen, vcpu)! + REGISTERS[register] + BigInt(16 * (vector >> 5));
  return { address, mask: (1 << (vector & 31)) >>> 0 };
}

function registersOf(xen: Xen, { object }: Vcpu): bigint | undefined {
  const page = object.u64('arch.hvm.vlapic.regs');
  return page !== 0n && xen.memory.isMapped(page) ? page : undefined;
}
