/**
 * What the instructions of a compiler and of Xen's entry code do (Intel SDM volume 2; AMD APM volume 3). Anything else, above all
 * what touches the world outside registers and memory (ports, clocks, control registers, interrupts), is left to the real CPU.
 */
import { type Instruction as IcedInstruction, Mnemonic } from 'iced-x86';
import type { Instruction } from '../decode.js';
import { RFLAGS } from '../registers.js';
import { add, doubleShift, increment, logic, type Shift, shift, subtract, unsigned } from './alu.js';
import { type InterpretedCpu, RBP, RSP, Unpredictable } from './cpu.js';
import { bitScan, bitTest, divide, multiply, multiplyWide, popcnt, swapBytes } from './integers.js';
import { effectiveAddress, type Operand, operand } from './operands.js';
import { stringInstruction } from './strings.js';

/** Executes one instruction; `rip` is that of the next one already, and a jump changes it. @throws Unpredictable */
export type Execute = (cpu: InterpretedCpu) => void;

/** `undefined`: the real CPU has to execute it. */
export function compile(instruction: Instruction): Execute | undefined {
  const { raw } = instruction;
  return (
    flow(instruction) ?? conditional(raw) ?? stack(raw) ?? simple(raw) ?? stringInstruction(raw) ?? onOperands(raw)
  );
}

function flow({ flow: kind, target, next, raw, mnemonic }: Instruction): Execute | undefined {
  if (mnemonic === Mnemonic.Vmrun) return undefined;
  const condition = raw.conditionCode - 1;
  switch (kind) {
    case 'branch':
      if (target === undefined || condition < 0) return undefined;
      return (cpu) => {
        if (cpu.holds(condition)) cpu.rip = target;
      };
    case 'jump':
    case 'call': {
      const place = target === undefined ? operand(raw, 0) : undefined;
      if (target === undefined && place?.size !== 8) return undefined;
      return (cpu) => {
        const to = target ?? place!.get(cpu);
        if (kind === 'call') cpu.push(next);
        cpu.rip = to;
      };
    }
    case 'return':
      if (mnemonic !== Mnemonic.Ret || raw.opCount !== 0) return undefined;
      return (cpu) => {
        cpu.rip = cpu.pop();
      };
    default:
      return undefined;
  }
}

/** SETcc and CMOVcc. A conditional move reads its source, and clears the upper half of a 32-bit target, either way. */
function conditional(raw: IcedInstruction): Execute | undefined {
  const condition = raw.conditionCode - 1;
  if (condition < 0) return undefined;
  const to = operand(raw, 0);
  if (to === undefined) return undefined;
  if (raw.opCount === 1) return (cpu) => to.set(cpu, cpu.holds(condition) ? 1n : 0n);
  const from = operand(raw, 1);
  if (from === undefined) return undefined;
  return (cpu) => {
    const value = from.get(cpu);
    to.set(cpu, cpu.holds(condition) ? value : to.get(cpu));
  };
}

function stack(raw: IcedInstruction): Execute | undefined {
  switch (raw.mnemonic) {
    case Mnemonic.Push: {
      const from = operand(raw, 0);
      if (from === undefined || from.size !== 8) return undefined;
      return (cpu) => cpu.push(from.get(cpu));
    }
    case Mnemonic.Pop: {
      const to = operand(raw, 0);
      // A memory operand's address is computed with the new stack pointer.
      if (to === undefined || to.size !== 8 || to.kind !== 'register') return undefined;
      return (cpu) => to.set(cpu, cpu.pop());
    }
    case Mnemonic.Leave:
      return (cpu) => {
        const frame = cpu.r[RBP]!;
        const value = cpu.memory.read(frame, 8);
        cpu.r[RSP] = frame + 8n;
        cpu.r[RBP] = value;
      };
    case Mnemonic.Pushfq:
      return (cpu) => cpu.push(BigInt(cpu.flags & ~(VM | RF)));
    case Mnemonic.Popfq:
      return (cpu) => {
        const value = Number(cpu.memory.read(cpu.r[RSP]!, 8));
        if ((value & ~ORDINARY_FLAGS) !== 0) throw new Unpredictable('flags that trap or change tasks');
        cpu.r[RSP] = cpu.r[RSP]! + 8n;
        cpu.flags = value | 2;
      };
    default:
      return undefined;
  }
}

const VM = 1 << 17;
const RF = 1 << 16;
/** What POPF may find: the arithmetic flags, IF, DF, the constant bit 1, IOPL. */
const ORDINARY_FLAGS = 0x3ed7;

/** Instructions without operands that matter here. */
function simple({ mnemonic }: IcedInstruction): Execute | undefined {
  switch (mnemonic) {
    case Mnemonic.Nop:
    case Mnemonic.Pause:
    case Mnemonic.Endbr64:
    case Mnemonic.Lfence:
    case Mnemonic.Mfence:
    case Mnemonic.Sfence:
    case Mnemonic.Prefetchnta:
    case Mnemonic.Prefetcht0:
    case Mnemonic.Prefetcht1:
    case Mnemonic.Prefetcht2:
    case Mnemonic.Prefetchw:
      return () => {};
    case Mnemonic.Clc:
      return (cpu) => {
        cpu.cf = false;
      };
    case Mnemonic.Stc:
      return (cpu) => {
        cpu.cf = true;
      };
    case Mnemonic.Cmc:
      return (cpu) => {
        cpu.cf = !cpu.cf;
      };
    case Mnemonic.Cld:
      return (cpu) => cpu.setFlag(RFLAGS.DF, false);
    case Mnemonic.Std:
      return (cpu) => cpu.setFlag(RFLAGS.DF, true);
    case Mnemonic.Cli:
      return (cpu) => cpu.setFlag(RFLAGS.IF, false);
    case Mnemonic.Sti:
      return (cpu) => cpu.setFlag(RFLAGS.IF, true);
    case Mnemonic.Cwde:
      return widen(0, 4, 2);
    case Mnemonic.Cdqe:
      return widen(0, 8, 4);
    case Mnemonic.Cdq:
      return spreadSign(4);
    case Mnemonic.Cqo:
      return spreadSign(8);
    default:
      return undefined;
  }
}

const widen =
  (register: number, to: number, from: number): Execute =>
  (cpu) => {
    cpu.r[register] = unsigned(BigInt.asIntN(8 * from, cpu.r[register]!), to);
  };

/** CDQ and CQO: rdx becomes the sign of rax. */
const spreadSign =
  (size: number): Execute =>
  (cpu) => {
    cpu.r[2] = unsigned(BigInt.asIntN(8 * size, cpu.r[0]!) < 0n ? -1n : 0n, size);
  };

function onOperands(raw: IcedInstruction): Execute | undefined {
  const count = raw.opCount;
  if (count === 0) return undefined;
  const a = operand(raw, 0);
  if (raw.mnemonic === Mnemonic.Lea) return lea(raw, a);
  if (a === undefined) return undefined;
  if (count === 1) return onOne(raw, a);
  const b = operand(raw, 1, a.size);
  if (b === undefined) return undefined;
  return count === 2 ? onTwo(raw, a, b) : onThree(raw, { a, b });
}

function lea(raw: IcedInstruction, to: Operand | undefined): Execute | undefined {
  const address = effectiveAddress(raw);
  if (to === undefined || address === undefined) return undefined;
  return (cpu) => to.set(cpu, address(cpu));
}

function onOne({ mnemonic }: IcedInstruction, a: Operand): Execute | undefined {
  const { size } = a;
  switch (mnemonic) {
    case Mnemonic.Inc:
      return (cpu) => change(cpu, a, (value) => increment(cpu, value, size, 1));
    case Mnemonic.Dec:
      return (cpu) => change(cpu, a, (value) => increment(cpu, value, size, -1));
    case Mnemonic.Not:
      return (cpu) => a.set(cpu, unsigned(~a.get(cpu), size));
    case Mnemonic.Neg:
      return (cpu) => change(cpu, a, (value) => subtract(cpu, 0n, value, size));
    case Mnemonic.Mul:
    case Mnemonic.Imul:
      return size === 1 ? undefined : (cpu) => multiplyWide(cpu, a.get(cpu), size, mnemonic === Mnemonic.Imul);
    case Mnemonic.Div:
    case Mnemonic.Idiv:
      return size === 1 ? undefined : (cpu) => divide(cpu, a.get(cpu), size, mnemonic === Mnemonic.Idiv);
    case Mnemonic.Bswap:
      return size < 4 ? undefined : (cpu) => a.set(cpu, swapBytes(a.get(cpu), size));
    default:
      return undefined;
  }
}

function change(cpu: InterpretedCpu, place: Operand, compute: (value: bigint) => bigint): void {
  place.set(cpu, compute(place.get(cpu)));
}

const SHIFTS: ReadonlyMap<Mnemonic, Shift> = new Map([
  [Mnemonic.Shl, 'shl'],
  [Mnemonic.Sal, 'shl'],
  [Mnemonic.Shr, 'shr'],
  [Mnemonic.Sar, 'sar'],
  [Mnemonic.Rol, 'rol'],
  [Mnemonic.Ror, 'ror'],
]);

const BIT_TESTS: ReadonlyMap<Mnemonic, 'test' | 'set' | 'reset' | 'complement'> = new Map([
  [Mnemonic.Bt, 'test'],
  [Mnemonic.Bts, 'set'],
  [Mnemonic.Btr, 'reset'],
  [Mnemonic.Btc, 'complement'],
]);

function onTwo(raw: IcedInstruction, a: Operand, b: Operand): Execute | undefined {
  const { mnemonic } = raw;
  const { size } = a;
  const kind = SHIFTS.get(mnemonic);
  if (kind !== undefined) return (cpu) => change(cpu, a, (value) => shift(cpu, kind, value, b.get(cpu), size));
  const test = BIT_TESTS.get(mnemonic);
  if (test !== undefined) return bitTest(raw, test, a, b);
  switch (mnemonic) {
    case Mnemonic.Mov:
    case Mnemonic.Movzx:
    case Mnemonic.Movnti:
      return (cpu) => a.set(cpu, b.get(cpu));
    case Mnemonic.Movsx:
    case Mnemonic.Movsxd:
      return (cpu) => a.set(cpu, unsigned(BigInt.asIntN(8 * b.size, b.get(cpu)), size));
    case Mnemonic.Add:
      return (cpu) => change(cpu, a, (value) => add(cpu, value, b.get(cpu), size));
    case Mnemonic.Adc:
      return (cpu) => change(cpu, a, (value) => add(cpu, value, b.get(cpu), size, cpu.cf ? 1n : 0n));
    case Mnemonic.Sub:
      return (cpu) => change(cpu, a, (value) => subtract(cpu, value, b.get(cpu), size));
    case Mnemonic.Sbb:
      return (cpu) => change(cpu, a, (value) => subtract(cpu, value, b.get(cpu), size, cpu.cf ? 1n : 0n));
    case Mnemonic.Cmp:
      return (cpu) => void subtract(cpu, a.get(cpu), b.get(cpu), size);
    case Mnemonic.Test:
      return (cpu) => void logic(cpu, a.get(cpu) & b.get(cpu), size);
    case Mnemonic.And:
      return (cpu) => change(cpu, a, (value) => logic(cpu, value & b.get(cpu), size));
    case Mnemonic.Or:
      return (cpu) => change(cpu, a, (value) => logic(cpu, value | b.get(cpu), size));
    case Mnemonic.Xor:
      return (cpu) => change(cpu, a, (value) => logic(cpu, value ^ b.get(cpu), size));
    case Mnemonic.Xchg:
      return (cpu) => {
        const value = a.get(cpu);
        const other = b.get(cpu);
        a.set(cpu, other);
        b.set(cpu, value);
      };
    case Mnemonic.Xadd:
      return (cpu) => {
        const value = a.get(cpu);
        a.set(cpu, add(cpu, value, b.get(cpu), size));
        b.set(cpu, value);
      };
    case Mnemonic.Cmpxchg:
      return compareExchange(a, b);
    case Mnemonic.Imul:
      return (cpu) => multiply(cpu, a, a.get(cpu), b.get(cpu));
    case Mnemonic.Bsf:
    case Mnemonic.Tzcnt:
      return bitScan(a, b, 'lowest', mnemonic === Mnemonic.Bsf ? 'keep' : 'unknown');
    case Mnemonic.Bsr:
      return bitScan(a, b, 'highest', 'keep');
    case Mnemonic.Popcnt:
      return popcnt(a, b);
    default:
      return undefined;
  }
}

function compareExchange(a: Operand, b: Operand): Execute {
  const { size } = a;
  return (cpu) => {
    const value = a.get(cpu);
    const expected = unsigned(cpu.r[0]!, size);
    if (value === expected) a.set(cpu, b.get(cpu));
    else {
      a.set(cpu, value); // The bus sees a write either way, so a page that cannot be written faults.
      cpu.r[0] = size >= 4 ? value : (cpu.r[0]! & ~((1n << BigInt(8 * size)) - 1n)) | value;
    }
    subtract(cpu, expected, value, size);
  };
}

function onThree(raw: IcedInstruction, { a, b }: { a: Operand; b: Operand }): Execute | undefined {
  const { size } = a;
  const c = raw.opCount === 3 ? operand(raw, 2, size) : undefined;
  if (c === undefined) return undefined;
  switch (raw.mnemonic) {
    case Mnemonic.Imul:
      return (cpu) => multiply(cpu, a, b.get(cpu), c.get(cpu));
    case Mnemonic.Shld:
    case Mnemonic.Shrd: {
      const kind = raw.mnemonic === Mnemonic.Shld ? 'shld' : 'shrd';
      if (size < 4) return undefined;
      return (cpu) =>
        change(cpu, a, (value) => doubleShift(cpu, kind, { a: value, b: b.get(cpu), count: c.get(cpu), size }));
    }
    default:
      return undefined;
  }
}
