/**
 * Register (Zhou and Tamir, DSN 2018; Le and Tamir, TDSC 2015): one random bit flips in one of the 16 general registers, the
 * flags or the program counter. The register is drawn first, each as likely as the other, and then the bit.
 *
 * Of the flags only bits that exist are drawn: the reserved ones are wired to a constant and cannot flip, nor can VM, which 64-bit
 * mode has not. A flip in the upper bits of the program counter mostly gives an address that is not canonical: the fetch raises a
 * general protection fault, on hardware and in QEMU.
 */
import { z } from 'zod';
import { type CpuRegisters, GENERAL_REGISTERS } from '../../x86/registers.js';
import type { FaultModel } from '../model.js';

const REGISTERS = [...GENERAL_REGISTERS, 'rip', 'rflags'] as const;
const registerSchema = z.enum(REGISTERS);

const options = z.strictObject({
  type: z.literal('register'),
  /** Only these; default all 18. */
  registers: z
    .array(registerSchema)
    .min(1)
    .default([...REGISTERS]),
});

const choiceSchema = z.object({ register: registerSchema, bit: z.int().min(0).max(63) });

/** CF PF AF ZF SF TF IF DF OF IOPL(2) NT RF AC VIF VIP ID (Intel SDM volume 1, 3.4.3). */
export const FLAG_BITS = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 19, 20, 21] as const;

export const register: FaultModel<typeof options> = {
  name: 'register',
  summary: 'one bit of a general register, the flags or the program counter flips',
  options,
  choose(random, { registers }) {
    const name = random.pick(registers);
    return { register: name, bit: name === 'rflags' ? random.pick(FLAG_BITS) : random.integer(0, 63) };
  },
  async apply({ target, state }, choice) {
    const { register: name, bit } = choiceSchema.parse(choice);
    const changed = flipped(state.registers, name, bit);
    await target.machine.writeRegisters(state.cpu, changed);
    const hex = (value: bigint | number | undefined): string => `0x${value?.toString(16)}`;
    const what = `bit ${bit} of ${name} flipped: ${hex(state.registers[name])} became ${hex(changed[name])}`;
    return { kind: 'applied', what };
  },
};

function flipped(
  registers: Readonly<CpuRegisters>,
  name: z.output<typeof registerSchema>,
  bit: number,
): Partial<CpuRegisters> {
  if (name === 'rflags') return { rflags: (registers.rflags ^ (1 << bit)) >>> 0 };
  return { [name]: registers[name] ^ (1n << BigInt(bit)) };
}
