/** The state that the interpreter changes: general registers, flags, and memory as a copy that nobody else sees. */
import { type CpuRegisters, ENCODING_ORDER, RFLAGS } from '../registers.js';

export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RSP = 4;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;

/** Memory as the interpreted CPU sees it. @throws Unpredictable where it cannot be read or written without side effects */
export interface InterpretedMemory {
  /** @param size 1, 2, 4 or 8 bytes */
  read(address: bigint, size: number): bigint;
  write(address: bigint, size: number, value: bigint): void;
}

/** What the interpreter does not know: the real CPU has to execute this instruction. */
export class Unpredictable extends Error {}

const AF = 1 << 4;
const OF = 1 << 11;
const ARITHMETIC = RFLAGS.CF | RFLAGS.PF | AF | RFLAGS.ZF | RFLAGS.SF | OF;

export class InterpretedCpu {
  /** By encoding; a value that is stored is cut to 64 bits. */
  readonly r = new BigUint64Array(16);
  rip: bigint;
  cf: boolean = false;
  pf: boolean = false;
  af: boolean = false;
  zf: boolean = false;
  sf: boolean = false;
  of: boolean = false;
  /** All flags but the arithmetic ones. */
  #otherFlags: number = 0;
  readonly fsBase: bigint;
  readonly gsBase: bigint;
  readonly memory: InterpretedMemory;

  constructor(registers: Readonly<CpuRegisters>, memory: InterpretedMemory) {
    for (const [n, name] of ENCODING_ORDER.entries()) this.r[n] = registers[name];
    this.rip = registers.rip;
    this.fsBase = registers.fsBase;
    this.gsBase = registers.gsBase;
    this.memory = memory;
    this.flags = registers.rflags;
  }

  get flags(): number {
    let flags = this.#otherFlags;
    if (this.cf) flags |= RFLAGS.CF;
    if (this.pf) flags |= RFLAGS.PF;
    if (this.af) flags |= AF;
    if (this.zf) flags |= RFLAGS.ZF;
    if (this.sf) flags |= RFLAGS.SF;
    if (this.of) flags |= OF;
    return flags;
  }

  set flags(value: number) {
    this.#otherFlags = value & ~ARITHMETIC;
    this.cf = (value & RFLAGS.CF) !== 0;
    this.pf = (value & RFLAGS.PF) !== 0;
    this.af = (value & AF) !== 0;
    this.zf = (value & RFLAGS.ZF) !== 0;
    this.sf = (value & RFLAGS.SF) !== 0;
    this.of = (value & OF) !== 0;
  }

  get backwards(): boolean {
    return (this.#otherFlags & RFLAGS.DF) !== 0;
  }

  setFlag(mask: number, on: boolean): void {
    this.#otherFlags = on ? this.#otherFlags | mask : this.#otherFlags & ~mask;
  }

  push(value: bigint): void {
    const rsp = BigInt.asUintN(64, this.r[RSP]! - 8n);
    this.memory.write(rsp, 8, value);
    this.r[RSP] = rsp;
  }

  pop(): bigint {
    const rsp = this.r[RSP]!;
    const value = this.memory.read(rsp, 8);
    this.r[RSP] = rsp + 8n;
    return value;
  }

  /** Whether a condition holds, by its number in the encoding of `jcc`, `setcc` and `cmovcc`. */
  holds(condition: number): boolean {
    const positive = this.#condition(condition >> 1);
    return (condition & 1) === 0 ? positive : !positive;
  }

  #condition(pair: number): boolean {
    switch (pair) {
      case 0:
        return this.of;
      case 1:
        return this.cf;
      case 2:
        return this.zf;
      case 3:
        return this.cf || this.zf;
      case 4:
        return this.sf;
      case 5:
        return this.pf;
      case 6:
        return this.sf !== this.of;
      default:
        return this.zf || this.sf !== this.of;
    }
  }
}
