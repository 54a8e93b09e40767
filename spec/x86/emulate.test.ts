import { describe, expect, it } from 'vitest';
import { type EmulatedState, emulate } from '../../src/x86/emulate.js';
import { GENERAL_REGISTERS } from '../../src/x86/registers.js';

const CODE = 0x1000n;

interface Run {
  readonly count: number;
  readonly state: EmulatedState;
  readonly memory: Map<bigint, bigint>;
  read(address: bigint): bigint;
}

/** Registers hold 100 plus their number, rsp 0x8000, unless `set` says otherwise. */
function run(bytes: number[], set: Partial<EmulatedState['registers']> = {}, until = (_: EmulatedState) => false): Run {
  const code = Uint8Array.from(bytes);
  const memory = new Map<bigint, bigint>();
  const values = Object.fromEntries(GENERAL_REGISTERS.map((name, n) => [name, BigInt(100 + n)]));
  const registers = { ...values, rsp: 0x8000n, ...set } as EmulatedState['registers'];
  const state: EmulatedState = { registers, rip: CODE };
  const read = (address: bigint): bigint => memory.get(address) ?? 0n;
  const count = emulate(
    state,
    {
      code: (at) => code.subarray(Math.min(code.length, Math.max(0, Number(at - CODE)))),
      read,
      write: (address, size, value) => memory.set(address, BigInt.asUintN(8 * size, value)),
    },
    until,
  );
  return { count, state, memory, read };
}

const HLT = 0xf4;

describe('emulate', () => {
  it('pushes registers and immediates downwards', () => {
    const { state, read, count } = run([0x57, 0x41, 0x57, 0x6a, 0x00, 0x68, 0, 1, 0, 0, HLT]);
    expect(count).toBe(4);
    expect(state.registers.rsp).toBe(0x8000n - 32n);
    expect([0x7ff8n, 0x7ff0n, 0x7fe8n, 0x7fe0n].map(read)).toEqual([
      state.registers.rdi,
      state.registers.r15,
      0n,
      0x100n,
    ]);
  });

  it('pushes a negative immediate with its sign', () => {
    expect(run([0x6a, 0xff, HLT]).read(0x7ff8n)).toBe(0xffff_ffff_ffff_ffffn);
  });

  it('saves and clears registers as the entry of a trap does', () => {
    const { state, read, count } = run([
      ...[0xfc], // cld
      ...[0x48, 0x83, 0xc4, 0x88], // add rsp, -0x78
      ...[0x48, 0x89, 0x7c, 0x24, 0x70], // mov [rsp+0x70], rdi
      ...[0x31, 0xff], // xor edi, edi
      ...[0x4c, 0x89, 0x3c, 0x24], // mov [rsp], r15
      ...[0x45, 0x31, 0xff], // xor r15d, r15d
      HLT,
    ]);
    expect(count).toBe(6);
    expect(state.registers.rsp).toBe(0x8000n - 0x78n);
    expect(read(0x8000n - 8n)).toBe(105n);
    expect(read(0x8000n - 0x78n)).toBe(115n);
    expect([state.registers.rdi, state.registers.r15, state.registers.rsi]).toEqual([0n, 0n, 104n]);
  });

  it('writes as many bytes as the instruction does', () => {
    const wide = { rax: 0x1122_3344_5566_7788n };
    expect(run([0x48, 0x89, 0x04, 0x24, HLT], wide).read(0x8000n)).toBe(wide.rax);
    expect(run([0x89, 0x04, 0x24, HLT], wide).read(0x8000n)).toBe(0x5566_7788n);
    expect(run([0xc7, 0x44, 0x24, 0x04, 0, 1, 0, 0, HLT]).read(0x8004n)).toBe(0x100n);
  });

  it('clears the upper half when a 32-bit register is written', () => {
    const { state } = run([0x89, 0xc3, HLT], { rax: 0x1_0000_0002n, rbx: 0xffff_ffff_ffff_ffffn });
    expect(state.registers.rbx).toBe(2n);
  });

  it('moves a 64-bit constant and exchanges stacks as the system-call stub does', () => {
    const stack = [0xf8, 0x7f, 0x00, 0x00, 0x02, 0x83, 0xff, 0xff];
    const { state, read } = run([0x48, 0x89, 0xe0, 0x48, 0xbc, ...stack, 0x50, HLT]);
    expect(state.registers.rax).toBe(0x8000n);
    expect(state.registers.rsp).toBe(0xffff_8302_0000_7ff0n);
    expect(read(0xffff_8302_0000_7ff0n)).toBe(0x8000n);
  });

  it('follows a direct jump and ends there', () => {
    const { state, count } = run([0xeb, 0x01, HLT, 0x57, HLT]);
    expect(count).toBe(2);
    expect(state.rip).toBe(CODE + 4n);
  });

  it.each([
    ['a call', [0xe8, 0, 0, 0, 0]],
    ['an indirect jump', [0xff, 0xe0]],
    ['a conditional branch', [0x74, 0x00]],
    ['a test', [0x85, 0xc0]],
    ['arithmetic on another register', [0x48, 0x83, 0xc0, 0x08]],
    ['an xor of two registers', [0x48, 0x31, 0xd8]],
    ['a write to a segment register', [0x8e, 0xd8]],
    ['bytes that are no instruction', [0x06]],
  ])('stops before %s and changes nothing there', (_, bytes) => {
    const { count, state, memory } = run([0x90, ...bytes, 0x57]);
    expect(count).toBe(1);
    expect(state.rip).toBe(CODE + 1n);
    expect(state.registers.rax).toBe(100n);
    expect(memory.size).toBe(0);
  });

  it('stops where it is told to', () => {
    const { count, state } = run([0x90, 0x90, 0x90, 0x90], {}, ({ rip }) => rip === CODE + 2n);
    expect([count, state.rip]).toEqual([2, CODE + 2n]);
  });

  it('does not run for ever', () => {
    expect(run([0xeb, 0xfe]).count).toBe(200);
  });

  it.each([
    ['a push through two registers', [0x43, 0xff, 0x34, 0x0c]],
    ['a push of a segment register', [0x0f, 0xa0]],
    ['a store through two registers', [0x48, 0x89, 0x0c, 0x18]],
  ])('stops before %s, which it does not understand', (_, bytes) => {
    const { count, state, memory } = run([...bytes, HLT]);
    expect(count).toBe(0);
    expect(state.registers.rsp).toBe(0x8000n);
    expect(memory.size).toBe(0);
  });

  it('pushes the stack pointer as it was before', () => {
    expect(run([0x54, HLT]).read(0x7ff8n)).toBe(0x8000n);
  });
});
