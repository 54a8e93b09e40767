/** Operands of decoded instructions as functions that read and write them. */
import {
  type Instruction as IcedInstruction,
  MemorySizeExt,
  OpKind,
  Register,
  RegisterExt,
  type UsedMemory,
} from 'iced-x86';
import { maskOf, unsigned } from './alu.js';
import { type InterpretedCpu, Unpredictable } from './cpu.js';

export interface Operand {
  /** Bytes. */
  readonly size: number;
  readonly kind: 'register' | 'memory' | 'immediate';
  get(cpu: InterpretedCpu): bigint;
  set(cpu: InterpretedCpu, value: bigint): void;
}

const HIGH_BYTES: ReadonlySet<Register> = new Set([Register.AH, Register.CH, Register.DH, Register.BH]);

/** `undefined` for operands that the interpreter does not know. */
export function operand(raw: IcedInstruction, index: number, sizeOfOther?: number): Operand | undefined {
  switch (raw.opKind(index)) {
    case OpKind.Register:
      return registerOperand(raw.opRegister(index));
    case OpKind.Memory: {
      const address = effectiveAddress(raw);
      const size = MemorySizeExt.size(raw.memorySize);
      if (address === undefined || ![1, 2, 4, 8].includes(size)) return undefined;
      return {
        size,
        kind: 'memory',
        get: (cpu) => cpu.memory.read(address(cpu), size),
        set: (cpu, value) => cpu.memory.write(address(cpu), size, unsigned(value, size)),
      };
    }
    case OpKind.Immediate8:
    case OpKind.Immediate8_2nd:
    case OpKind.Immediate16:
    case OpKind.Immediate32:
    case OpKind.Immediate64:
    case OpKind.Immediate8to16:
    case OpKind.Immediate8to32:
    case OpKind.Immediate8to64:
    case OpKind.Immediate32to64: {
      const size = sizeOfOther ?? 8;
      const value = unsigned(raw.immediate(index), size);
      return {
        size,
        kind: 'immediate',
        get: () => value,
        set() {
          throw new Unpredictable('an immediate is no place');
        },
      };
    }
    default:
      return undefined;
  }
}

export function registerOperand(register: Register): Operand | undefined {
  const full = RegisterExt.fullRegister(register);
  if (!RegisterExt.isGPR64(full)) return undefined;
  const n = RegisterExt.number(full);
  const size = RegisterExt.size(register);
  if (HIGH_BYTES.has(register)) {
    return {
      size,
      kind: 'register',
      get: (cpu) => (cpu.r[n]! >> 8n) & 0xffn,
      set: (cpu, value) => {
        cpu.r[n] = (cpu.r[n]! & ~0xff00n) | ((value & 0xffn) << 8n);
      },
    };
  }
  const mask = maskOf(size);
  // A write of 32 bits clears the upper half; narrower ones leave the rest as it is.
  const kept = size >= 4 ? 0n : ~mask;
  return {
    size,
    kind: 'register',
    get: (cpu) => cpu.r[n]! & mask,
    set: (cpu, value) => {
      cpu.r[n] = (cpu.r[n]! & kept) | (value & mask);
    },
  };
}

/** The address of the memory operand, segment base included. */
export const effectiveAddress = (raw: IcedInstruction): Address | undefined =>
  addressOf({
    base: raw.memoryBase,
    index: raw.memoryIndex,
    scale: raw.memoryIndexScale,
    displacement: raw.memoryDisplacement,
    segment: raw.segmentPrefix,
  });

/** What an address is made of. For one relative to rip the decoder has added that to the displacement already. */
export type AddressParts = Pick<UsedMemory, 'base' | 'index' | 'scale' | 'displacement' | 'segment'>;
type Address = (cpu: Pick<InterpretedCpu, 'r' | 'fsBase' | 'gsBase'>) => bigint;

/** The address that is made of these parts; `undefined` where they are not 64-bit general registers. */
export function addressOf(parts: AddressParts): Address | undefined {
  const base = addressPart(parts.base);
  const index = addressPart(parts.index);
  if (base === undefined || index === undefined) return undefined;
  const scale = BigInt(parts.scale);
  const { displacement, segment } = parts;
  return (cpu) => {
    let address = displacement;
    if (base !== 'none') address += cpu.r[base]!;
    if (index !== 'none') address += cpu.r[index]! * scale;
    if (segment === Register.GS) address += cpu.gsBase;
    else if (segment === Register.FS) address += cpu.fsBase;
    return BigInt.asUintN(64, address);
  };
}

/** Number of a register in an address; `undefined` where it is not a 64-bit one. */
function addressPart(register: Register): number | 'none' | undefined {
  if (register === Register.None || register === Register.RIP) return 'none';
  return RegisterExt.isGPR64(register) ? RegisterExt.number(register) : undefined;
}
