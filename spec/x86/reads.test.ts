/** What instructions are about to read. */
import { describe, expect, it } from 'vitest';
import { decode } from '../../src/x86/decode.js';
import { type MemoryRead, readsOf } from '../../src/x86/reads.js';
import type { CpuRegisters } from '../../src/x86/registers.js';
import { emptyRegisters } from '../support/fake-registers.js';

const REGISTERS: CpuRegisters = {
  ...emptyRegisters(),
  ...{ rax: 0x10n, rbx: 0x1000n, rsi: 0x3000n, rdi: 0x4000n, rsp: 0x8000n, gsBase: 0x70_0000n },
};
const AT = 0xffff_82d0_4000_0000n;

function reads(...code: number[]): MemoryRead[] {
  for (const { raw } of decode(Uint8Array.from(code), AT)) return readsOf(raw).map((read) => read(REGISTERS));
  throw new Error('no instruction');
}

describe('readsOf', () => {
  it('adds up base, index, scale and displacement', () => {
    expect(reads(0x8b, 0x4c, 0x83, 0x04)).toEqual([{ address: 0x1044n, size: 4 }]); // mov ecx, [rbx+rax*4+4]
  });

  it('takes addresses relative to the program counter from its own end', () => {
    expect(reads(0x48, 0x8b, 0x05, 0x10, 0, 0, 0)).toEqual([{ address: AT + 7n + 0x10n, size: 8 }]); // mov rax, [rip+0x10]
  });

  it('adds the base of a segment', () => {
    expect(reads(0x65, 0x8a, 0x03)).toEqual([{ address: 0x70_1000n, size: 1 }]); // mov al, gs:[rbx]
  });

  it('knows what is read without being named', () => {
    expect(reads(0x58)).toEqual([{ address: 0x8000n, size: 8 }]); // pop rax
    expect(reads(0xc3)).toEqual([{ address: 0x8000n, size: 8 }]); // ret
    expect(reads(0xa4)).toEqual([{ address: 0x3000n, size: 1 }]); // movsb
  });

  it('leaves out what is only written, and what is not touched', () => {
    expect(reads(0x89, 0x0b)).toEqual([]); // mov [rbx], ecx
    expect(reads(0x50)).toEqual([]); // push rax
    expect(reads(0x48, 0x8d, 0x03)).toEqual([]); // lea rax, [rbx]
    expect(reads(0xff, 0x33)).toEqual([{ address: 0x1000n, size: 8 }]); // push [rbx]
    expect(reads(0xf0, 0xff, 0x03)).toEqual([{ address: 0x1000n, size: 4 }]); // lock inc dword [rbx]
  });
});
