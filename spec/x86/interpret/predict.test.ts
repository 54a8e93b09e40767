/** Instructions as bytes, and what they do to registers, flags and memory. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Prediction, predict } from '../../../src/x86/interpret/predict.js';
import type { CpuRegisters } from '../../../src/x86/registers.js';
import { FakeMemory } from '../../support/fake-memory.js';

const MIB = 1024 * 1024;
const ROOT = MIB;
const CODE = 0xffff_82d0_4020_0000n;
const DATA = 0xffff_8300_0000_0000n;
const ALIAS = 0xffff_8310_0000_0000n;
const STACK = DATA + 0x8000n;
const FLAGS = { CF: 1n, ZF: 64n, SF: 128n, OF: 2048n };

function machine(code: readonly number[]): FakeMemory {
  const memory = new FakeMemory(16 * MIB, ROOT + 4096);
  memory.map(ROOT, CODE, 4 * MIB, 'large');
  memory.map(ROOT, DATA, 6 * MIB, 'large');
  memory.map(ROOT, ALIAS, 6 * MIB, 'page');
  memory.map(ROOT, DATA + 0x40_0000n, 64 * MIB, 'large'); // A device: no RAM there.
  memory.write(4 * MIB, code);
  return memory;
}

const registersAt = (set: Partial<CpuRegisters>): CpuRegisters =>
  ({
    ...Object.fromEntries(
      ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rbp', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'].map(
        (name) => [name, 0n],
      ),
    ),
    rsp: STACK,
    rip: CODE,
    rflags: 2,
    cr3: BigInt(ROOT),
    fsBase: 0n,
    gsBase: 0n,
    ...set,
  }) as CpuRegisters;

const ORDER = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8'] as const;

/** Runs to the end of the code: an instruction that only the real CPU can execute (CPUID) is put behind it. */
function run(code: readonly number[], set: Partial<CpuRegisters> = {}, memory = machine([...code, 0x0f, 0xa2])) {
  const prediction = predict(memory, registersAt(set), { limit: 1000, within: () => true });
  const last = prediction.registers.at(-1)!;
  const after = Object.fromEntries(ORDER.map((name, n) => [name, last[n]!])) as Record<(typeof ORDER)[number], bigint>;
  return { ...prediction, after, steps: prediction.path.length - 1 };
}

/** The flags after code that pushes them last. */
function flagsAfter(code: readonly number[], set: Partial<CpuRegisters>): bigint {
  return run([...code, 0x9c, 0x58], set).after.rax; // pushfq; pop rax
}

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

describe('arithmetic', () => {
  it('adds and subtracts with carry, overflow, zero and sign', () => {
    fc.assert(
      fc.property(u64, u64, (rax, rbx) => {
        const sum = BigInt.asUintN(64, rax + rbx);
        const signedSum = BigInt.asIntN(64, rax) + BigInt.asIntN(64, rbx);
        const flags = flagsAfter([0x48, 0x01, 0xd8], { rax, rbx }); // add rax, rbx
        expect(run([0x48, 0x01, 0xd8], { rax, rbx }).after.rax).toBe(sum);
        expect((flags & FLAGS.CF) !== 0n).toBe(rax + rbx >= 2n ** 64n);
        expect((flags & FLAGS.ZF) !== 0n).toBe(sum === 0n);
        expect((flags & FLAGS.SF) !== 0n).toBe(sum >> 63n === 1n);
        expect((flags & FLAGS.OF) !== 0n).toBe(BigInt.asIntN(64, signedSum) !== signedSum);
        const less = flagsAfter([0x48, 0x39, 0xd8], { rax, rbx }); // cmp rax, rbx
        expect((less & FLAGS.CF) !== 0n).toBe(rax < rbx);
        const lessSigned = ((less & FLAGS.SF) !== 0n) !== ((less & FLAGS.OF) !== 0n);
        expect(lessSigned).toBe(BigInt.asIntN(64, rax) < BigInt.asIntN(64, rbx));
      }),
      { numRuns: 50 },
    );
  });

  it('multiplies and divides over two registers', () => {
    fc.assert(
      fc.property(u64, u64, (rax, rbx) => {
        const { after } = run([0x48, 0xf7, 0xe3], { rax, rbx }); // mul rbx
        expect((after.rdx << 64n) | after.rax).toBe(rax * rbx);
        if (rbx === 0n) return;
        const back = run([0x48, 0xf7, 0xf3], { rax: after.rax, rdx: after.rdx, rbx }); // div rbx
        expect(back.after).toMatchObject({ rax, rdx: 0n });
      }),
      { numRuns: 50 },
    );
  });

  it('shifts as wide as the operand, by a count modulo its width', () => {
    expect(run([0x48, 0xd3, 0xe0], { rax: 3n, rcx: 63n }).after.rax).toBe(1n << 63n); // shl rax, cl
    expect(run([0x48, 0xd3, 0xe0], { rax: 3n, rcx: 64n }).after.rax).toBe(3n);
    expect(run([0xd3, 0xf8], { rax: 0x8000_0000n, rcx: 31n }).after.rax).toBe(0xffff_ffffn); // sar eax, cl
    expect(run([0x48, 0xc1, 0xc8, 0x04], { rax: 0xfn }).after.rax).toBe(0xf000_0000_0000_0000n); // ror rax, 4
  });

  it('clears the upper half when 32 bits are written, and nothing when 8 or 16 are', () => {
    const rax = 0x1122_3344_5566_7788n;
    expect(run([0x89, 0xd8], { rax, rbx: 1n }).after.rax).toBe(1n); // mov eax, ebx
    expect(run([0x66, 0x89, 0xd8], { rax, rbx: 1n }).after.rax).toBe(0x1122_3344_5566_0001n); // mov ax, bx
    expect(run([0x88, 0xdc], { rax, rbx: 1n }).after.rax).toBe(0x1122_3344_5566_0188n); // mov ah, bl
  });

  it('leaves a division by zero to the real CPU', () => {
    expect(run([0x48, 0xf7, 0xf3], { rax: 1n })).toMatchObject({ end: 'unknown', steps: 0 });
  });
});

describe('memory', () => {
  it('is changed for what follows and not for anybody else', () => {
    const memory = machine([0x48, 0x89, 0x1f, 0x48, 0x8b, 0x07, 0x0f, 0xa2]); // mov [rdi], rbx; mov rax, [rdi]
    expect(run([], { rdi: DATA, rbx: 77n }, memory).after.rax).toBe(77n);
    expect(memory.page((6 * MIB) / 4096)![0]).toBe(0);
  });

  it('is the same page at every address that maps it', () => {
    const code = [0x48, 0x89, 0x1f, 0x48, 0x8b, 0x06]; // mov [rdi], rbx; mov rax, [rsi]
    expect(run(code, { rdi: DATA + 8n, rsi: ALIAS + 8n, rbx: 77n }).after.rax).toBe(77n);
  });

  it('ends the foresight where there is none, and where a device is', () => {
    for (const rdi of [0x1000n, DATA + 0x40_0000n]) {
      expect(run([0x48, 0x8b, 0x07], { rdi })).toMatchObject({ end: 'unknown', steps: 0 });
    }
  });

  it('reads and writes across pages', () => {
    const code = [0x48, 0x89, 0x1f, 0x48, 0x8b, 0x07];
    expect(run(code, { rdi: DATA + 0xffdn, rbx: 0x1122_3344_5566_7788n }).after.rax).toBe(0x1122_3344_5566_7788n);
  });

  it('is filled and copied by repeated string instructions, each of which is one instruction', () => {
    const code = [0xf3, 0xaa, 0x8a, 0x46, 0x04]; // rep stosb; mov al, [rsi+4]
    const { after, steps } = run(code, { rdi: DATA, rsi: DATA, rax: 0x5an, rcx: 5n });
    expect(steps).toBe(2);
    expect(after).toMatchObject({ rdi: DATA + 5n, rcx: 0n, rax: 0x5an });
  });

  it('finds bits beyond the operand, in both directions', () => {
    const memory = machine([0x48, 0x0f, 0xab, 0x07, 0x48, 0x8b, 0x06, 0x0f, 0xa2]); // bts [rdi], rax; mov rax, [rsi]
    const rdi = DATA + 64n;
    expect(run([], { rdi, rax: 70n, rsi: DATA + 72n }, memory).after.rax).toBe(1n << 6n);
    expect(run([], { rdi, rax: BigInt.asUintN(64, -1n), rsi: DATA + 56n }, memory).after.rax).toBe(1n << 63n);
  });
});

describe('the way', () => {
  const rips = ({ path }: Prediction): number[] => path.map((rip) => Number(rip - CODE));

  it('follows calls, returns and conditional jumps', () => {
    // 0: call 7; 5: jmp 12; 7: xor eax, eax; 9: je 11; 11: ret; 12: cpuid
    const straight = run([0xe8, 2, 0, 0, 0, 0xeb, 5, 0x31, 0xc0, 0x74, 0, 0xc3]);
    expect(rips(straight)).toEqual([0, 7, 9, 11, 5, 12]);
    expect(straight).toMatchObject({ end: 'unknown', after: { rsp: STACK } });
  });

  it('goes no farther than it was asked to', () => {
    const memory = machine([0xeb, 0xfe]); // jmp to itself
    expect(predict(memory, registersAt({}), { limit: 10, within: () => true })).toMatchObject({ end: 'limit' });
    expect(predict(memory, registersAt({}), { limit: 10, within: () => true }).path).toHaveLength(11);
  });

  it('ends where the code that was asked about ends', () => {
    const memory = machine([0x90, 0x90, 0x90]);
    const { end, path } = predict(memory, registersAt({}), { limit: 10, within: (rip) => rip < CODE + 2n });
    expect(end).toBe('left');
    expect(path).toHaveLength(3);
  });

  it('tells a CPU that waits for another one', () => {
    const memory = machine([0xf3, 0x90, 0x48, 0x39, 0x07, 0x74, 0xf9]); // pause; cmp [rdi], rax; je 0
    expect(predict(memory, registersAt({ rdi: DATA }), { limit: 1000, within: () => true }).end).toBe('spinning');
    expect(predict(memory, registersAt({ rdi: DATA, rax: 1n }), { limit: 3, within: () => true }).end).toBe('limit');
  });

  it('leaves ports, clocks, control registers and interrupts to the real CPU', () => {
    const others = {
      in: [0xec],
      rdtsc: [0x0f, 0x31],
      'mov cr3': [0x0f, 0x22, 0xd8],
      iretq: [0x48, 0xcf],
      sysret: [0x48, 0x0f, 0x07],
      hlt: [0xf4],
      ud2: [0x0f, 0x0b],
      int3: [0xcc],
      wrmsr: [0x0f, 0x30],
      vmrun: [0x0f, 0x01, 0xd8],
      clgi: [0x0f, 0x01, 0xdd],
      movaps: [0x0f, 0x28, 0x07],
    };
    for (const [name, code] of Object.entries(others)) expect([name, run(code).steps]).toEqual([name, 0]);
  });

  it('will not pop flags that trap', () => {
    expect(run([0x6a, 0x02, 0x9d]).steps).toBe(2); // push 2; popfq
    expect(run([0x68, 0x02, 0x01, 0, 0, 0x9d]).steps).toBe(1); // push 0x102: TF
  });
});
