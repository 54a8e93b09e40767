/**
 * Runs the straight-line part of an interrupt or system-call entry sequence on values: pushes, moves of registers to
 * the stack, clearing of registers, direct jumps. Enough to finish saving a guest's registers for a CPU that was
 * frozen in the middle of it. Pure: reads and writes go through what the caller gives.
 */
import { Code, decode, type Instruction, Mnemonic, OpKind, Register } from './decode.js';
import { ENCODING_ORDER, type GENERAL_REGISTERS } from './registers.js';

type GeneralRegister = (typeof GENERAL_REGISTERS)[number];

export interface EmulatedState {
  /** The 16 general registers; changed in place. */
  readonly registers: Record<GeneralRegister, bigint>;
  rip: bigint;
}

export interface EmulatedMemory {
  /** Up to 15 bytes of code; fewer where the next page is not mapped. */
  code(address: bigint): Uint8Array;
  read(address: bigint, size: number): bigint;
  write(address: bigint, size: number, value: bigint): void;
}

/** Runs until `until` says so before an instruction, or the first one that is not understood. Returns how many ran. */
export function emulate(
  state: EmulatedState,
  memory: EmulatedMemory,
  until: (state: EmulatedState) => boolean,
): number {
  for (let count = 0; count < 200; count++) {
    if (until(state)) return count;
    let ran = false;
    for (const instruction of decode(memory.code(state.rip), state.rip)) {
      ran = execute(state, memory, instruction);
      break;
    }
    if (!ran) return count;
  }
  return 200;
}

function execute(state: EmulatedState, memory: EmulatedMemory, instruction: Instruction): boolean {
  const { registers } = state;
  const { raw } = instruction;
  switch (instruction.mnemonic) {
    case Mnemonic.Push: {
      const value = operand(state, memory, raw, 0, 8);
      if (value === undefined) return false;
      registers.rsp -= 8n;
      memory.write(registers.rsp, 8, value);
      break;
    }
    case Mnemonic.Mov: {
      if (raw.op0Kind === OpKind.Memory && effectiveAddress(state, raw) === undefined) return false;
      if (raw.op0Kind !== OpKind.Memory && registerName(raw.op0Register) === undefined) return false;
      const size = raw.op0Kind === OpKind.Memory ? memorySize(raw) : registerSize(raw.op0Register);
      const value = operand(state, memory, raw, 1, size);
      if (value === undefined) return false;
      store(state, memory, raw, size, value);
      break;
    }
    case Mnemonic.Xor:
      if (raw.op0Kind !== OpKind.Register || raw.op0Register !== raw.op1Register) return false;
      store(state, memory, raw, 8, 0n);
      break;
    case Mnemonic.Add:
    case Mnemonic.Sub: {
      if (raw.op0Register !== Register.RSP) return false;
      const amount = operand(state, memory, raw, 1, 8);
      if (amount === undefined) return false;
      const signed = BigInt.asIntN(64, amount);
      registers.rsp = BigInt.asUintN(64, registers.rsp + (instruction.mnemonic === Mnemonic.Add ? signed : -signed));
      break;
    }
    case Mnemonic.Jmp:
      if (instruction.target === undefined) return false;
      state.rip = instruction.target;
      return true;
    case Mnemonic.Cld:
    case Mnemonic.Nop:
    case Mnemonic.Endbr64:
    case Mnemonic.Clac:
      break;
    default:
      return false;
  }
  state.rip = instruction.next;
  return true;
}

function operand(
  state: EmulatedState,
  memory: EmulatedMemory,
  raw: Instruction['raw'],
  index: 0 | 1,
  size: number,
): bigint | undefined {
  const kind = index === 0 ? raw.op0Kind : raw.op1Kind;
  if (kind === OpKind.Register) {
    const name = registerName(index === 0 ? raw.op0Register : raw.op1Register);
    return name === undefined ? undefined : BigInt.asUintN(8 * size, state.registers[name]);
  }
  if (kind === OpKind.Memory) {
    const address = effectiveAddress(state, raw);
    return address === undefined ? undefined : memory.read(address, size);
  }
  return BigInt.asUintN(64, raw.immediate(index));
}

function store(
  state: EmulatedState,
  memory: EmulatedMemory,
  raw: Instruction['raw'],
  size: number,
  value: bigint,
): void {
  if (raw.op0Kind === OpKind.Memory) {
    const address = effectiveAddress(state, raw);
    if (address !== undefined) memory.write(address, size, BigInt.asUintN(8 * size, value));
    return;
  }
  const name = registerName(raw.op0Register);
  // Writing a 32-bit register clears its upper half; the sequences write no narrower ones.
  if (name !== undefined) state.registers[name] = BigInt.asUintN(size >= 4 ? 8 * size : 64, value);
}

function effectiveAddress(state: EmulatedState, raw: Instruction['raw']): bigint | undefined {
  if (raw.memoryIndex !== Register.None) return undefined;
  if (raw.memoryBase === Register.None) return BigInt.asUintN(64, raw.memoryDisplacement);
  if (raw.memoryBase === Register.RIP) return BigInt.asUintN(64, raw.memoryDisplacement);
  const base = registerName(raw.memoryBase);
  return base === undefined ? undefined : BigInt.asUintN(64, state.registers[base] + raw.memoryDisplacement);
}

/** Bytes that a move to memory writes. */
function memorySize(raw: Instruction['raw']): number {
  switch (raw.code) {
    case Code.Mov_rm64_r64:
    case Code.Mov_rm64_imm32:
    case Code.Mov_moffs64_RAX:
      return 8;
    case Code.Mov_rm16_r16:
    case Code.Mov_rm16_imm16:
      return 2;
    case Code.Mov_rm8_r8:
    case Code.Mov_rm8_imm8:
      return 1;
    default:
      return 4;
  }
}

const registerSize = (register: Register): number => (register >= Register.RAX && register <= Register.R15 ? 8 : 4);

function registerName(register: Register): GeneralRegister | undefined {
  if (register >= Register.RAX && register <= Register.R15) return ENCODING_ORDER[register - Register.RAX];
  if (register >= Register.EAX && register <= Register.R15D) return ENCODING_ORDER[register - Register.EAX];
  return undefined;
}
