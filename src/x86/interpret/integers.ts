/** Multiplication, division and bit instructions. */
import type { Instruction as IcedInstruction } from 'iced-x86';
import { multiplied, signed, unsigned } from './alu.js';
import { type InterpretedCpu, RAX, RDX, Unpredictable } from './cpu.js';
import { effectiveAddress, type Operand } from './operands.js';

/** IMUL with two or three operands: the product is cut. */
export function multiply(cpu: InterpretedCpu, to: Operand, a: bigint, b: bigint): void {
  const { size } = to;
  const product = signed(a, size) * signed(b, size);
  to.set(cpu, unsigned(product, size));
  multiplied(cpu, unsigned(product, size), size, signed(product, size) !== product);
}

/** MUL and IMUL with one operand: rdx:rax is the product of rax. */
export function multiplyWide(cpu: InterpretedCpu, value: bigint, size: number, isSigned: boolean): void {
  const a = unsigned(cpu.r[RAX]!, size);
  const product = isSigned ? signed(a, size) * signed(value, size) : a * value;
  const low = unsigned(product, size);
  const overflow = isSigned ? signed(product, size) !== product : product !== low;
  setPart(cpu, RAX, low, size);
  setPart(cpu, RDX, unsigned(product >> BigInt(8 * size), size), size);
  multiplied(cpu, low, size, overflow);
}

/** DIV and IDIV of rdx:rax. @throws Unpredictable when it would raise a divide error */
export function divide(cpu: InterpretedCpu, by: bigint, size: number, isSigned: boolean): void {
  const bits = BigInt(8 * size);
  const wide = (unsigned(cpu.r[RDX]!, size) << bits) | unsigned(cpu.r[RAX]!, size);
  const dividend = isSigned ? BigInt.asIntN(16 * size, wide) : wide;
  const divisor = isSigned ? signed(by, size) : by;
  if (divisor === 0n) throw new Unpredictable('division by zero');
  const quotient = dividend / divisor;
  const fits = isSigned ? signed(quotient, size) === quotient : unsigned(quotient, size) === quotient;
  if (!fits) throw new Unpredictable('the quotient does not fit');
  setPart(cpu, RAX, unsigned(quotient, size), size);
  setPart(cpu, RDX, unsigned(dividend % divisor, size), size);
}

function setPart(cpu: InterpretedCpu, register: number, value: bigint, size: number): void {
  cpu.r[register] = size >= 4 ? value : (cpu.r[register]! & ~((1n << BigInt(8 * size)) - 1n)) | value;
}

/** BT and its kin. With a register as the bit's number and memory as the place, the number reaches beyond the operand. */
export function bitTest(
  raw: IcedInstruction,
  what: 'test' | 'set' | 'reset' | 'complement',
  a: Operand,
  b: Operand,
): ((cpu: InterpretedCpu) => void) | undefined {
  const { size } = a;
  const bits = BigInt(8 * size);
  const far = a.kind === 'memory' && b.kind === 'register';
  const address = far ? effectiveAddress(raw) : undefined;
  if (far && address === undefined) return undefined;
  return (cpu) => {
    const index = b.get(cpu);
    const bit = 1n << (index & (bits - 1n));
    let place: bigint | undefined;
    let value: bigint;
    if (address === undefined) value = a.get(cpu);
    else {
      // The word that holds the bit: `size` bytes, counted from the operand's address in both directions.
      place = BigInt.asUintN(64, address(cpu) + (signed(index, size) >> BigInt(Math.log2(8 * size))) * BigInt(size));
      value = cpu.memory.read(place, size);
    }
    const carry = (value & bit) !== 0n;
    if (what !== 'test') {
      const changed = what === 'set' ? value | bit : what === 'reset' ? value & ~bit : value ^ bit;
      if (place === undefined) a.set(cpu, changed);
      else cpu.memory.write(place, size, changed);
    }
    cpu.cf = carry;
  };
}

/** BSF, BSR, TZCNT. `none`: what happens when there is no bit; whether TZCNT is TZCNT or BSF depends on the CPU. */
export function bitScan(
  to: Operand,
  from: Operand,
  which: 'lowest' | 'highest',
  none: 'keep' | 'unknown',
): (cpu: InterpretedCpu) => void {
  return (cpu) => {
    const value = from.get(cpu);
    if (value === 0n) {
      if (none === 'unknown') throw new Unpredictable('TZCNT of zero');
      to.set(cpu, to.get(cpu));
      cpu.zf = true;
      return;
    }
    const text = value.toString(2);
    const at = which === 'highest' ? text.length - 1 : text.length - 1 - text.lastIndexOf('1');
    to.set(cpu, BigInt(at));
    cpu.zf = false;
  };
}

export function popcnt(to: Operand, from: Operand): (cpu: InterpretedCpu) => void {
  return (cpu) => {
    const value = from.get(cpu);
    to.set(cpu, BigInt(value.toString(2).replaceAll('0', '').length));
    multiplied(cpu, value, from.size, false);
    cpu.pf = false;
    cpu.sf = false;
    cpu.zf = value === 0n;
  };
}

export function swapBytes(value: bigint, size: number): bigint {
  let result = 0n;
  for (let n = 0; n < size; n++) result = (result << 8n) | ((value >> BigInt(8 * n)) & 0xffn);
  return result;
}
