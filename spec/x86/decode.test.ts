import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decode, endsInCall } from '../../src/x86/decode.js';

const flows = (bytes: number[], at = 0x1000n) =>
  [...decode(Uint8Array.from(bytes), at)].map(({ address, next, flow, target }) => ({ address, next, flow, target }));

describe('decode', () => {
  it('gives each instruction its place, the next one’s, and where it leads', () => {
    expect(flows([0x90, 0xe8, 0x10, 0, 0, 0, 0xeb, 0xfe, 0x74, 0x02, 0xc3])).toEqual([
      { address: 0x1000n, next: 0x1001n, flow: 'next', target: undefined },
      { address: 0x1001n, next: 0x1006n, flow: 'call', target: 0x1016n },
      { address: 0x1006n, next: 0x1008n, flow: 'jump', target: 0x1006n },
      { address: 0x1008n, next: 0x100an, flow: 'branch', target: 0x100cn },
      { address: 0x100an, next: 0x100bn, flow: 'return', target: undefined },
    ]);
  });

  it('reads targets across the whole address space', () => {
    expect(flows([0xe9, 0xfb, 0xff, 0xff, 0xff], 0xffff_82d0_4020_0000n)[0]?.target).toBe(0xffff_82d0_4020_0000n);
  });

  it('has no target for an indirect call', () => {
    expect(flows([0xff, 0xd0])).toEqual([{ address: 0x1000n, next: 0x1002n, flow: 'call', target: undefined }]);
  });

  it('goes on behind VMRUN and stops at UD2', () => {
    const [vmrun, ud2] = flows([0x0f, 0x01, 0xd8, 0x0f, 0x0b]);
    expect(vmrun).toMatchObject({ next: 0x1003n, target: undefined });
    expect(vmrun?.flow).toBe('next');
    expect(ud2?.flow).toBe('stop');
  });

  it('ends at bytes that are no instruction and at a truncated one', () => {
    expect(flows([0x90, 0x06, 0x90])).toHaveLength(1);
    expect(flows([0x90, 0xe8, 0x10])).toHaveLength(1);
    expect(flows([])).toEqual([]);
  });
});

describe('endsInCall', () => {
  const ends = (...bytes: number[]): boolean => {
    const before = new Uint8Array(7).fill(0x90);
    before.set(bytes, 7 - bytes.length);
    return endsInCall(before);
  };

  it('knows calls of every length', () => {
    expect(ends(0xe8, 1, 2, 3, 4)).toBe(true);
    expect(ends(0xff, 0xd0)).toBe(true);
    expect(ends(0x41, 0xff, 0xd4)).toBe(true);
    expect(ends(0xff, 0x10)).toBe(true);
    expect(ends(0xff, 0x14, 0x24)).toBe(true);
    expect(ends(0xff, 0x50, 0x18)).toBe(true);
    expect(ends(0xff, 0x54, 0x24, 0x08)).toBe(true);
    expect(ends(0xff, 0x15, 1, 2, 3, 4)).toBe(true);
    expect(ends(0xff, 0x90, 1, 2, 3, 4)).toBe(true);
    expect(ends(0xff, 0x94, 0xc1, 1, 2, 3, 4)).toBe(true);
  });

  it('takes neither jumps nor other instructions for calls', () => {
    expect(ends(0xe9, 1, 2, 3, 4)).toBe(false);
    expect(ends(0xff, 0xe0)).toBe(false);
    expect(ends(0xff, 0xc0)).toBe(false);
    expect(ends()).toBe(false);
    expect(endsInCall(new Uint8Array(0))).toBe(false);
  });

  it('agrees with the decoder about indirect calls', () => {
    const tail = fc.uint8Array({ minLength: 5, maxLength: 5 });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 3 }), tail, (rm, mod, rest) => {
        const modrm = (mod << 6) | (2 << 3) | rm;
        const [call] = [...decode(Uint8Array.from([0xff, modrm, ...rest]), 0n)];
        const length = Number(call!.next);
        expect(call!.flow).toBe('call');
        expect(ends(...[0xff, modrm, ...rest].slice(0, length))).toBe(true);
      }),
    );
  });
});
