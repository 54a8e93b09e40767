/**
 * Arithmetic with flags (Intel SDM volume 2). Operands and results are unsigned and as wide as `size` says, in bytes. Flags that
 * the manual leaves undefined get some value: no compiler makes code that looks at them.
 */
import type { InterpretedCpu } from './cpu.js';

export const MASKS: Readonly<Record<number, bigint>> = {
  1: 0xffn,
  2: 0xffffn,
  4: 0xffff_ffffn,
  8: 0xffff_ffff_ffff_ffffn,
};

export const maskOf = (size: number): bigint => MASKS[size]!;
export const isNegative = (value: bigint, size: number): boolean => value >> BigInt(8 * size - 1) === 1n;
export const signed = (value: bigint, size: number): bigint => BigInt.asIntN(8 * size, value);
export const unsigned = (value: bigint, size: number): bigint => BigInt.asUintN(8 * size, value);

const PARITY = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0;
  for (let rest = byte; rest !== 0; rest >>= 1) bits += rest & 1;
  return bits & 1;
});

function setResult(cpu: InterpretedCpu, result: bigint, size: number): void {
  cpu.zf = result === 0n;
  cpu.sf = isNegative(result, size);
  cpu.pf = PARITY[Number(result & 0xffn)] === 0;
}

export function add(cpu: InterpretedCpu, a: bigint, b: bigint, size: number, carry = 0n): bigint {
  const sum = a + b + carry;
  const result = sum & maskOf(size);
  cpu.cf = sum > maskOf(size);
  cpu.of = isNegative((a ^ result) & (b ^ result), size);
  cpu.af = ((a ^ b ^ result) & 0x10n) !== 0n;
  setResult(cpu, result, size);
  return result;
}

export function subtract(cpu: InterpretedCpu, a: bigint, b: bigint, size: number, borrow = 0n): bigint {
  const result = unsigned(a - b - borrow, size);
  cpu.cf = a < b + borrow;
  cpu.of = isNegative((a ^ b) & (a ^ result), size);
  cpu.af = ((a ^ b ^ result) & 0x10n) !== 0n;
  setResult(cpu, result, size);
  return result;
}

/** Flags of AND, OR, XOR and TEST. */
export function logic(cpu: InterpretedCpu, result: bigint, size: number): bigint {
  cpu.cf = false;
  cpu.of = false;
  cpu.af = false;
  setResult(cpu, result, size);
  return result;
}

/** INC and DEC: as ADD and SUB of 1, but the carry stays. */
export function increment(cpu: InterpretedCpu, a: bigint, size: number, by: 1 | -1): bigint {
  const carry = cpu.cf;
  const result = by === 1 ? add(cpu, a, 1n, size) : subtract(cpu, a, 1n, size);
  cpu.cf = carry;
  return result;
}

export type Shift = 'shl' | 'shr' | 'sar' | 'rol' | 'ror';

/** @param count as the operand gives it; it is taken modulo 32 or 64 */
export function shift(cpu: InterpretedCpu, kind: Shift, a: bigint, count: bigint, size: number): bigint {
  const bits = BigInt(8 * size);
  const n = count & (size === 8 ? 63n : 31n);
  if (n === 0n) return a;
  if (kind === 'rol' || kind === 'ror') return rotate(cpu, kind, a, n % bits, size);
  const from = kind === 'sar' ? signed(a, size) : a;
  const before = kind === 'shl' ? unsigned(a << (n - 1n), size) : unsigned(from >> (n - 1n), size);
  const result = kind === 'shl' ? unsigned(a << n, size) : unsigned(from >> n, size);
  cpu.cf = kind === 'shl' ? isNegative(before, size) : (before & 1n) !== 0n;
  cpu.of = isNegative(before ^ result, size);
  cpu.af = false;
  setResult(cpu, result, size);
  return result;
}

function rotate(cpu: InterpretedCpu, kind: 'rol' | 'ror', a: bigint, n: bigint, size: number): bigint {
  const bits = BigInt(8 * size);
  const left = kind === 'rol' ? n : bits - n;
  const result = unsigned((a << left) | (a >> (bits - left)), size);
  const top = isNegative(result, size);
  cpu.cf = kind === 'rol' ? (result & 1n) !== 0n : top;
  cpu.of = kind === 'rol' ? top !== cpu.cf : top !== isNegative(unsigned(result << 1n, size), size);
  return result;
}

/** SHLD and SHRD: bits of `b` come in. */
export function doubleShift(
  cpu: InterpretedCpu,
  kind: 'shld' | 'shrd',
  operands: { readonly a: bigint; readonly b: bigint; readonly count: bigint; readonly size: number },
): bigint {
  const { a, b, count, size } = operands;
  const n = count & (size === 8 ? 63n : 31n);
  if (n === 0n) return a;
  const bits = BigInt(8 * size);
  const at = (by: bigint): bigint =>
    kind === 'shld' ? unsigned((a << by) | (b >> (bits - by)), size) : unsigned((a >> by) | (b << (bits - by)), size);
  const result = at(n);
  cpu.cf = kind === 'shld' ? ((a >> (bits - n)) & 1n) !== 0n : ((a >> (n - 1n)) & 1n) !== 0n;
  cpu.of = isNegative(at(n - 1n) ^ result, size);
  cpu.af = false;
  setResult(cpu, result, size);
  return result;
}

/** Flags of a multiplication whose lower half is `low`; `overflow`: the upper half is needed. */
export function multiplied(cpu: InterpretedCpu, low: bigint, size: number, overflow: boolean): void {
  setResult(cpu, low, size);
  cpu.af = false;
  cpu.cf = overflow;
  cpu.of = overflow;
}
