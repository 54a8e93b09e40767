/** String instructions, with and without a repeat prefix. A repeated one counts as one instruction. */
import { type Instruction as IcedInstruction, Mnemonic, Register } from 'iced-x86';
import { subtract, unsigned } from './alu.js';
import { type InterpretedCpu, RAX, RCX, RDI, RSI, Unpredictable } from './cpu.js';

type Kind = 'movs' | 'stos' | 'lods' | 'scas' | 'cmps';

const INSTRUCTIONS: ReadonlyMap<Mnemonic, readonly [Kind, number]> = new Map([
  [Mnemonic.Movsb, ['movs', 1]],
  [Mnemonic.Movsw, ['movs', 2]],
  [Mnemonic.Movsd, ['movs', 4]],
  [Mnemonic.Movsq, ['movs', 8]],
  [Mnemonic.Stosb, ['stos', 1]],
  [Mnemonic.Stosw, ['stos', 2]],
  [Mnemonic.Stosd, ['stos', 4]],
  [Mnemonic.Stosq, ['stos', 8]],
  [Mnemonic.Lodsb, ['lods', 1]],
  [Mnemonic.Lodsw, ['lods', 2]],
  [Mnemonic.Lodsd, ['lods', 4]],
  [Mnemonic.Lodsq, ['lods', 8]],
  [Mnemonic.Scasb, ['scas', 1]],
  [Mnemonic.Scasw, ['scas', 2]],
  [Mnemonic.Scasd, ['scas', 4]],
  [Mnemonic.Scasq, ['scas', 8]],
  [Mnemonic.Cmpsb, ['cmps', 1]],
  [Mnemonic.Cmpsw, ['cmps', 2]],
  [Mnemonic.Cmpsd, ['cmps', 4]],
  [Mnemonic.Cmpsq, ['cmps', 8]],
]);

/** A repetition that is longer is left to the real CPU: two pages of bytes. */
const LONGEST = 8192n;

export function stringInstruction(raw: IcedInstruction): ((cpu: InterpretedCpu) => void) | undefined {
  const known = INSTRUCTIONS.get(raw.mnemonic);
  if (known === undefined || !raw.isStringInstruction) return undefined;
  if (raw.segmentPrefix === Register.FS || raw.segmentPrefix === Register.GS) return undefined;
  const [kind, size] = known;
  const compares = kind === 'scas' || kind === 'cmps';
  const whileZero = raw.hasRepPrefix || raw.hasRepePrefix;
  const whileNotZero = raw.hasRepnePrefix;
  if (!whileZero && !whileNotZero) return (cpu) => once(cpu, kind, size);
  return (cpu) => {
    if (cpu.r[RCX]! > LONGEST) throw new Unpredictable('a long repetition');
    while (cpu.r[RCX]! !== 0n) {
      once(cpu, kind, size);
      cpu.r[RCX] = cpu.r[RCX]! - 1n;
      if (compares && cpu.zf === whileNotZero) break;
    }
  };
}

function once(cpu: InterpretedCpu, kind: Kind, size: number): void {
  const { memory, r } = cpu;
  const step = BigInt(cpu.backwards ? -size : size);
  const forward = (register: number): void => {
    r[register] = r[register]! + step;
  };
  switch (kind) {
    case 'movs':
      memory.write(r[RDI]!, size, memory.read(r[RSI]!, size));
      forward(RSI);
      forward(RDI);
      break;
    case 'stos':
      memory.write(r[RDI]!, size, unsigned(r[RAX]!, size));
      forward(RDI);
      break;
    case 'lods': {
      const value = memory.read(r[RSI]!, size);
      r[RAX] = size >= 4 ? value : (r[RAX]! & ~((1n << BigInt(8 * size)) - 1n)) | value;
      forward(RSI);
      break;
    }
    case 'scas':
      subtract(cpu, unsigned(r[RAX]!, size), memory.read(r[RDI]!, size), size);
      forward(RDI);
      break;
    case 'cmps':
      subtract(cpu, memory.read(r[RSI]!, size), memory.read(r[RDI]!, size), size);
      forward(RSI);
      forward(RDI);
      break;
  }
}
