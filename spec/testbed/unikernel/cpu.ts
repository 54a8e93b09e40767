/** Runs the unikernel's machine code on values: the instructions that its assembler writes, decoded by an independent decoder. */
import { decode, type Instruction, Mnemonic, OpKind, Register } from '../../../src/x86/decode.js';

type Raw = Instruction['raw'];

interface Place {
  readonly size: number;
  get(): bigint;
  set(value: bigint): void;
}

const RAX = 0;
const RCX = 1;
const RDX = 2;
const RSP = 4;
const RSI = 6;
const RDI = 7;
const R11 = 11;

export class Cpu {
  readonly memory: Buffer;
  /** In the order of their encoding. */
  readonly registers = new BigUint64Array(16);
  rip = 0n;
  zero = false;
  carry = false;
  sign = false;
  /** Asked before each access of memory, with the page's number. */
  readonly mayAccess: (page: number) => boolean;
  /** Calls to this page are handed out, as Xen's are. */
  readonly #outside: { readonly page: number; readonly call: (entry: number) => void };
  readonly #decoded = new Map<bigint, () => void>();

  constructor(
    parts: Pick<Cpu, 'memory' | 'mayAccess'> & { readonly outside: { page: number; call(entry: number): void } },
  ) {
    this.memory = parts.memory;
    this.mayAccess = parts.mayAccess;
    this.#outside = parts.outside;
  }

  step(): void {
    const { rip } = this;
    let act = this.#decoded.get(rip);
    if (!act) {
      act = this.#compile(rip);
      this.#decoded.set(rip, act);
    }
    act();
  }

  push(value: bigint): void {
    this.registers[RSP]! -= 8n;
    this.write(this.registers[RSP]!, 8, value);
  }

  pop(): bigint {
    const value = this.read(this.registers[RSP]!, 8);
    this.registers[RSP]! += 8n;
    return value;
  }

  read(address: bigint, size: number): bigint {
    const at = this.#check(address);
    switch (size) {
      case 1:
        return BigInt(this.memory.readUInt8(at));
      case 4:
        return BigInt(this.memory.readUInt32LE(at));
      default:
        return this.memory.readBigUInt64LE(at);
    }
  }

  write(address: bigint, size: number, value: bigint): void {
    const at = this.#check(address);
    const whole = BigInt.asUintN(8 * size, value);
    if (size === 1) this.memory.writeUInt8(Number(whole), at);
    else if (size === 4) this.memory.writeUInt32LE(Number(whole), at);
    else this.memory.writeBigUInt64LE(whole, at);
  }

  #check(address: bigint): number {
    const at = Number(address);
    if (!this.mayAccess(at >> 12)) throw new Error(`access to ${at.toString(16)} at ${this.rip.toString(16)}`);
    return at;
  }

  #compile(rip: bigint): () => void {
    const code = this.memory.subarray(Number(rip), Number(rip) + 15);
    for (const instruction of decode(code, rip)) {
      const act = this.#actionOf(instruction);
      const { next } = instruction;
      return () => {
        this.rip = next;
        act();
      };
    }
    throw new Error(`no instruction at ${rip.toString(16)}`);
  }

  #actionOf({ mnemonic, raw, target = 0n }: Instruction): () => void {
    const { registers } = this;
    const a = raw.opCount > 0 && !isBranch(raw) ? this.#place(raw, 0) : NOWHERE;
    const b = raw.opCount > 1 ? this.#place(raw, 1) : NOWHERE;
    const bits = 8 * a.size;
    const go = (condition: () => boolean) => () => {
      if (condition()) this.rip = target;
    };
    switch (mnemonic) {
      case Mnemonic.Cld:
        return () => {};
      case Mnemonic.Mov:
      case Mnemonic.Movzx:
        return () => a.set(b.get());
      case Mnemonic.Movsx:
        return () => a.set(BigInt.asIntN(8, b.get()));
      case Mnemonic.Lea: {
        const address = this.#address(raw);
        return () => a.set(address());
      }
      case Mnemonic.Add:
        return () => a.set(this.#result(a.get() + b.get(), a.size));
      case Mnemonic.Sub:
      case Mnemonic.Cmp:
        return () => {
          this.carry = a.get() < b.get();
          const result = this.#result(a.get() - b.get(), a.size);
          if (mnemonic === Mnemonic.Sub) a.set(result);
        };
      case Mnemonic.And:
        return () => a.set(this.#logic(a.get() & b.get(), a.size));
      case Mnemonic.Or:
        return () => a.set(this.#logic(a.get() | b.get(), a.size));
      case Mnemonic.Xor:
        return () => a.set(this.#logic(a.get() ^ b.get(), a.size));
      case Mnemonic.Neg:
        return () => a.set(this.#result(-a.get(), a.size));
      case Mnemonic.Imul: {
        const by = raw.immediate(2);
        return () => a.set(b.get() * by);
      }
      case Mnemonic.Mul:
        return () => {
          const product = registers[RAX]! * a.get();
          registers[RAX] = product;
          registers[RDX] = product >> 64n;
        };
      case Mnemonic.Div:
        return () => {
          const by = a.get();
          const value = ((registers[RDX]! & 0xffffffffn) << 32n) | (registers[RAX]! & 0xffffffffn);
          registers[RAX] = value / by;
          registers[RDX] = value % by;
        };
      case Mnemonic.Shl:
        return () => a.set(this.#result(a.get() << (b.get() & 63n), a.size));
      case Mnemonic.Shr:
        return () => a.set(this.#result(a.get() >> (b.get() & 63n), a.size));
      case Mnemonic.Rol:
        return () => a.set((a.get() << b.get()) | (a.get() >> (BigInt(bits) - b.get())));
      case Mnemonic.Shrd: {
        const count = raw.immediate(2);
        return () => a.set(((b.get() << 64n) | a.get()) >> count);
      }
      case Mnemonic.Xchg:
        return () => {
          const value = a.get();
          a.set(b.get());
          b.set(value);
        };
      case Mnemonic.Push:
        return () => this.push(a.get());
      case Mnemonic.Pop:
        return () => a.set(this.pop());
      case Mnemonic.Call:
        if (raw.opCount > 0 && raw.op0Kind === OpKind.Register) return () => this.#callOutside(Number(a.get()));
        return () => {
          this.push(this.rip);
          this.rip = target;
        };
      case Mnemonic.Ret:
        return () => {
          this.rip = this.pop();
        };
      case Mnemonic.Iretq:
        return () => {
          this.rip = this.pop();
          if ((this.pop() & 3n) !== 3n) throw new Error('IRETQ to another ring than 3');
          this.pop();
          const stack = this.pop();
          if ((this.pop() & 3n) !== 3n) throw new Error('IRETQ to a stack of another ring than 3');
          registers[RSP] = stack;
        };
      case Mnemonic.Jmp:
        return go(() => true);
      case Mnemonic.Je:
        return go(() => this.zero);
      case Mnemonic.Jne:
        return go(() => !this.zero);
      case Mnemonic.Jb:
        return go(() => this.carry);
      case Mnemonic.Js:
        return go(() => this.sign);
      case Mnemonic.Rdtsc:
        return () => {
          registers[RAX] = 0n;
          registers[RDX] = 0n;
        };
      case Mnemonic.Movsb:
        return () =>
          this.#string(
            () => true,
            (from, to) => this.write(to, 1, this.read(from, 1)),
          );
      case Mnemonic.Cmpsb:
        return () =>
          this.#string(
            () => this.zero,
            (one, other) => {
              this.zero = this.read(one, 1) === this.read(other, 1);
            },
          );
      default:
        throw new Error(`the instruction ${Mnemonic[mnemonic]} is not known here`);
    }
  }

  /** A repeated instruction, as long as `goesOn`. */
  #string(goesOn: () => boolean, act: (from: bigint, to: bigint) => void): void {
    const { registers } = this;
    while (registers[RCX]! > 0n) {
      act(registers[RSI]!, registers[RDI]!);
      registers[RSI]!++;
      registers[RDI]!++;
      registers[RCX]!--;
      if (!goesOn()) break;
    }
  }

  /** Xen leaves all but rax, and what SYSCALL changes. */
  #callOutside(entry: number): void {
    const { page, call } = this.#outside;
    if (entry >> 12 !== page) throw new Error(`call of ${entry.toString(16)}`);
    call((entry & 0xfff) / 32);
  }

  #result(value: bigint, size: number): bigint {
    const whole = BigInt.asUintN(8 * size, value);
    this.zero = whole === 0n;
    this.sign = whole >> BigInt(8 * size - 1) === 1n;
    return whole;
  }

  #logic(value: bigint, size: number): bigint {
    this.carry = false;
    return this.#result(value, size);
  }

  #place(raw: Raw, index: 0 | 1): Place {
    const kind = index === 0 ? raw.op0Kind : raw.op1Kind;
    if (kind === OpKind.Register) return this.#register(index === 0 ? raw.op0Register : raw.op1Register);
    if (kind === OpKind.Memory) {
      const size = sizeOfMemory(raw);
      const address = this.#address(raw);
      return { size, get: () => this.read(address(), size), set: (value) => this.write(address(), size, value) };
    }
    if (raw.mnemonic === Mnemonic.Movsb || raw.mnemonic === Mnemonic.Cmpsb) return NOWHERE;
    const size = raw.op0Kind === OpKind.Register ? sizeOf(raw.op0Register) : sizeOfMemory(raw);
    const value = BigInt.asUintN(8 * size, raw.immediate(index));
    return { size, get: () => value, set: () => {} };
  }

  #register(register: Register): Place {
    const { registers } = this;
    const size = sizeOf(register);
    const index = indexOf(register);
    const mask = (1n << BigInt(8 * size)) - 1n;
    return {
      size,
      get: () => registers[index]! & mask,
      set: (value) => {
        const whole = value & mask;
        // A 32-bit register clears its upper half, a byte leaves the rest.
        registers[index] = size === 1 ? (registers[index]! & ~mask) | whole : whole;
      },
    };
  }

  #address(raw: Raw): () => bigint {
    const { registers } = this;
    const displacement = raw.memoryDisplacement;
    if (raw.memoryBase === Register.RIP) return () => displacement;
    const base = raw.memoryBase === Register.None ? undefined : indexOf(raw.memoryBase);
    const index = raw.memoryIndex === Register.None ? undefined : indexOf(raw.memoryIndex);
    const scale = BigInt(raw.memoryIndexScale);
    return () =>
      BigInt.asUintN(
        64,
        displacement +
          (base === undefined ? 0n : registers[base]!) +
          (index === undefined ? 0n : registers[index]! * scale),
      );
  }

  /** As Xen delivers an event to a PV kernel: an interrupt frame with rcx and r11 above it. */
  deliver(handler: bigint): void {
    const { registers } = this;
    const stack = registers[RSP]!;
    // Xen shows the kernel privilege level 0.
    for (const value of [0xe028n, stack, 0n, 0xe030n, this.rip, registers[R11]!, registers[RCX]!]) this.push(value);
    this.rip = handler;
  }
}

const NOWHERE: Place = { size: 8, get: () => 0n, set: () => {} };

const isBranch = (raw: Raw): boolean => raw.op0Kind === OpKind.NearBranch64;

function sizeOf(register: Register): number {
  if (register >= Register.RAX && register <= Register.R15) return 8;
  if (register >= Register.EAX && register <= Register.R15D) return 4;
  if (register >= Register.AL && register <= Register.R15L) return 1;
  throw new Error(`register ${Register[register]} is not known here`);
}

function indexOf(register: Register): number {
  if (register >= Register.RAX && register <= Register.R15) return register - Register.RAX;
  if (register >= Register.EAX && register <= Register.R15D) return register - Register.EAX;
  // AH to BH stand between BL and SPL.
  const byte = register - Register.AL;
  if (byte >= 4 && byte < 8) throw new Error(`register ${Register[register]} is not known here`);
  return byte < 4 ? byte : byte - 4;
}

function sizeOfMemory(raw: Raw): number {
  const widening = raw.mnemonic === Mnemonic.Movzx || raw.mnemonic === Mnemonic.Movsx;
  if (widening) return 1;
  if (raw.op0Kind === OpKind.Register && raw.mnemonic !== Mnemonic.Lea) return sizeOf(raw.op0Register);
  if (raw.op1Kind === OpKind.Register) return sizeOf(raw.op1Register);
  // An immediate to memory: the byte form has the opcode's lowest bit clear, which is how the decoder names its code.
  return raw.op1Kind === OpKind.Immediate8 && raw.mnemonic === Mnemonic.Mov ? 1 : 4;
}
