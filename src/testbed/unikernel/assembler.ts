/**
 * Assembler for the few x86-64 instructions that the unikernel needs, so that nobody needs a compiler to build a box. Encodings:
 * Intel SDM volume 2, chapters 2 and 3.
 */
import { NinelivesError } from '../../common/errors.js';

export const R = {
  ...{ rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7 },
  ...{ r8: 8, r9: 9, r10: 10, r11: 11, r12: 12, r13: 13, r14: 14, r15: 15 },
} as const;
export type Reg = (typeof R)[keyof typeof R];

/** A place in memory: base + index * scale + disp. Without a base it is an absolute address below 2 GiB. */
export interface Mem {
  readonly base?: Reg;
  readonly index?: Reg;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly disp?: number;
}

export type Width = 1 | 4 | 8;

/** The two-operand instructions of the oldest kind: `opcode` is the one of "register to register or memory". */
const ALU = { add: 0x00, or: 0x08, and: 0x20, sub: 0x28, xor: 0x30, cmp: 0x38 } as const;
const ALU_DIGIT = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;
const SHIFT_DIGIT = { rol: 0, shl: 4, shr: 5 } as const;
const CONDITION = { jb: 2, jz: 4, jnz: 5, js: 8 } as const;

export class Assembler {
  readonly #origin: number;
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #uses: { readonly at: number; readonly label: string }[] = [];

  /** @param origin address at which the code will be */
  constructor(origin: number) {
    this.#origin = origin;
  }

  /** @throws NL_INTERNAL for a label that there is already */
  label(name: string): void {
    if (this.#labels.has(name)) throw new NinelivesError('NL_INTERNAL', `two labels "${name}" in the unikernel`);
    this.#labels.set(name, this.#bytes.length);
  }

  /** @throws NL_INTERNAL for a label that there is not */
  addressOf(label: string): number {
    const offset = this.#labels.get(label);
    if (offset === undefined) throw new NinelivesError('NL_INTERNAL', `no label "${label}" in the unikernel`);
    return this.#origin + offset;
  }

  /** The code, with all jumps resolved. */
  finish(): Buffer {
    const code = Buffer.from(this.#bytes);
    for (const { at, label } of this.#uses) code.writeInt32LE(this.addressOf(label) - (this.#origin + at + 4), at);
    return code;
  }

  /** Instructions without operands, and data. */
  bytes(...bytes: readonly number[]): void {
    this.#bytes.push(...bytes);
  }

  /** reg = value, zero-extended. */
  set(reg: Reg, value: number): void {
    this.#rexIfNeeded(reg);
    this.bytes(0xb8 + (reg & 7));
    this.#int32(value);
  }

  /** reg = the address of a label. */
  setAddress(reg: Reg, label: string): void {
    // lea reg, [rip + label]
    this.bytes(0x48 | (reg >> 3 ? 4 : 0), 0x8d, ((reg & 7) << 3) | 5);
    this.#use(label);
  }

  move(width: Width, to: Reg, from: Reg): void {
    this.#modrm(width, [width === 1 ? 0x88 : 0x89], from, to);
  }

  load(width: Width, to: Reg, from: Mem): void {
    this.#modrm(width, [width === 1 ? 0x8a : 0x8b], to, from);
  }

  store(width: Width, to: Mem, from: Reg): void {
    this.#modrm(width, [width === 1 ? 0x88 : 0x89], from, to);
  }

  /** A byte of memory, zero-extended. */
  loadByte(to: Reg, from: Mem): void {
    this.#modrm(4, [0x0f, 0xb6], to, from);
  }

  /** A byte of memory, sign-extended to 32 bits. */
  loadSignedByte(to: Reg, from: Mem): void {
    this.#modrm(4, [0x0f, 0xbe], to, from);
  }

  storeImmediate(width: 1 | 4, to: Mem, value: number): void {
    this.#modrm(width, [width === 1 ? 0xc6 : 0xc7], 0, to);
    if (width === 1) this.bytes(value & 0xff);
    else this.#int32(value);
  }

  /** to = address of `from`. */
  addressInto(to: Reg, from: Mem): void {
    this.#modrm(8, [0x8d], to, from);
  }

  alu(op: keyof typeof ALU, width: Width, to: Reg, from: Reg | Mem): void {
    this.#modrm(width, [ALU[op] + (width === 1 ? 2 : 3)], to, from);
  }

  aluToMemory(op: keyof typeof ALU, width: Width, to: Mem, from: Reg): void {
    this.#modrm(width, [ALU[op] + (width === 1 ? 0 : 1)], from, to);
  }

  aluImmediate(op: keyof typeof ALU, width: 4 | 8, to: Reg, value: number): void {
    this.#modrm(width, [0x81], ALU_DIGIT[op], to);
    this.#int32(value);
  }

  multiplyImmediate(to: Reg, from: Reg, value: number): void {
    this.#modrm(4, [0x69], to, from);
    this.#int32(value);
  }

  shift(op: keyof typeof SHIFT_DIGIT, width: 4 | 8, reg: Reg, count: number): void {
    this.#modrm(width, [0xc1], SHIFT_DIGIT[op], reg);
    this.bytes(count);
  }

  /** Shifts by the count in CL. */
  shiftByCl(op: keyof typeof SHIFT_DIGIT, width: 4 | 8, reg: Reg): void {
    this.#modrm(width, [0xd3], SHIFT_DIGIT[op], reg);
  }

  negate(reg: Reg): void {
    this.#modrm(4, [0xf7], 3, reg);
  }

  /** rdx:rax = rax * reg, 64 bits each. */
  multiplyWide(reg: Reg): void {
    this.#modrm(8, [0xf7], 4, reg);
  }

  /** eax = edx:eax / reg, edx = the rest. */
  divide(reg: Reg): void {
    this.#modrm(4, [0xf7], 6, reg);
  }

  /** low = (high:low) >> count, 64 bits. */
  shiftRightPair(low: Reg, high: Reg, count: number): void {
    this.#modrm(8, [0x0f, 0xac], high, low);
    this.bytes(count);
  }

  exchange(width: 4 | 8, reg: Reg, memory: Mem): void {
    this.#modrm(width, [0x87], reg, memory);
  }

  push(reg: Reg): void {
    this.#rexIfNeeded(reg);
    this.bytes(0x50 + (reg & 7));
  }

  pop(reg: Reg): void {
    this.#rexIfNeeded(reg);
    this.bytes(0x58 + (reg & 7));
  }

  call(label: string): void {
    this.bytes(0xe8);
    this.#use(label);
  }

  jump(label: string): void {
    this.bytes(0xe9);
    this.#use(label);
  }

  jumpIf(condition: keyof typeof CONDITION, label: string): void {
    this.bytes(0x0f, 0x80 + CONDITION[condition]);
    this.#use(label);
  }

  callRegister(reg: Reg): void {
    this.#modrm(4, [0xff], 2, reg);
  }

  #use(label: string): void {
    this.#uses.push({ at: this.#bytes.length, label });
    this.#int32(0);
  }

  #int32(value: number): void {
    this.bytes(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff);
  }

  #rexIfNeeded(reg: Reg): void {
    if (reg >= 8) this.bytes(0x41);
  }

  /** @param reg a register, or the digit that stands in its place */
  #modrm(width: Width, opcode: readonly number[], reg: number, operand: Reg | Mem): void {
    const memory = typeof operand === 'number' ? undefined : operand;
    const base = typeof operand === 'number' ? operand : operand.base;
    const index = memory?.index;
    const rex = (width === 8 ? 8 : 0) | (reg >= 8 ? 4 : 0) | ((index ?? 0) >= 8 ? 2 : 0) | ((base ?? 0) >= 8 ? 1 : 0);
    // Without a REX prefix the byte registers 4..7 would be AH, CH, DH and BH.
    const plainByte = width === 1 && (reg >= 4 || (!memory && (base ?? 0) >= 4));
    if (rex !== 0 || plainByte) this.bytes(0x40 | rex);
    this.bytes(...opcode);
    const field = (reg & 7) << 3;
    if (!memory) {
      this.bytes(0xc0 | field | ((base ?? 0) & 7));
      return;
    }
    // Always a SIB byte and 32 bits of displacement: longer than needed, and the same for every register.
    this.bytes((base === undefined ? 0x00 : 0x80) | field | 4);
    const scale = Math.log2(memory.scale ?? 1);
    this.bytes((scale << 6) | (((index ?? 4) & 7) << 3) | ((base ?? 5) & 7));
    this.#int32(memory.disp ?? 0);
  }
}
