/** What of memory an instruction reads, implicit operands such as the stack included, over `iced-x86`. Pure. */
import {
  type Instruction as IcedInstruction,
  InstructionInfoFactory,
  MemorySizeExt,
  OpAccess,
  type UsedMemory,
} from 'iced-x86';
import { addressOf } from './interpret/operands.js';
import { type CpuRegisters, ENCODING_ORDER } from './registers.js';

export interface MemoryRead {
  readonly address: bigint;
  /** Bytes; 0 where the instruction's is not fixed, such as for XRSTOR. */
  readonly size: number;
}

/** Tells from the registers in front of an instruction what it is about to read. */
export type ReadBy = (registers: Readonly<CpuRegisters>) => MemoryRead;

const READS: ReadonlySet<OpAccess> = new Set([
  OpAccess.Read,
  OpAccess.CondRead,
  OpAccess.ReadWrite,
  OpAccess.ReadCondWrite,
]);

/** The reads of a decoded instruction; those whose address is not made of 64-bit general registers are left out. */
export function readsOf(raw: IcedInstruction): readonly ReadBy[] {
  const factory = new InstructionInfoFactory();
  try {
    const info = factory.info(raw);
    try {
      return (info.usedMemory() as UsedMemory[]).flatMap((used) => {
        try {
          return READS.has(used.access) ? (readBy(used) ?? []) : [];
        } finally {
          used.free();
        }
      });
    } finally {
      info.free();
    }
  } finally {
    factory.free();
  }
}

function readBy(used: UsedMemory): ReadBy | undefined {
  const address = addressOf(used);
  if (address === undefined) return undefined;
  const size = MemorySizeExt.size(used.memorySize);
  return (registers) => {
    const r = BigUint64Array.from(ENCODING_ORDER, (name) => registers[name]);
    return { address: address({ ...registers, r }), size };
  };
}
