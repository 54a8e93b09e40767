import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatRegisters, parseRegisters, REGISTER_NUMBERS, registerWrites } from '../../src/machine/registers.js';
import type { CpuRegisters, RegisterName } from '../../src/x86/registers.js';
import { failure } from './fakes/folder.js';

const NARROW = new Set(['rflags', 'cs', 'ss', 'ds', 'es', 'fs', 'gs']);
const anyRegisters = fc.record(
  Object.fromEntries(
    Object.keys(REGISTER_NUMBERS).map((name) => [
      name,
      NARROW.has(name) ? fc.integer({ min: 0, max: 0xffff_ffff }) : fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    ]),
  ),
) as unknown as fc.Arbitrary<CpuRegisters>;

describe('registers of the stub', () => {
  it('reads back whatever a g packet carries', () => {
    fc.assert(
      fc.property(anyRegisters, (registers) => {
        expect(parseRegisters(formatRegisters(registers))).toEqual(registers);
      }),
    );
  });

  it('reads the shorter packet of a CPU outside of 64-bit code', () => {
    const long = Buffer.from(
      formatRegisters({ ...zero(), cs: 0x23, fsBase: 0x1111n, cr3: 0x7000n, efer: 0xd01n }),
      'hex',
    );
    const systemPart = Array.from({ length: 9 }, (_, i) => long.subarray(164 + 8 * i, 168 + 8 * i));
    const short = Buffer.concat([long.subarray(0, 164), ...systemPart, long.subarray(236)]);
    expect(short.length).toBe(572);
    expect(parseRegisters(short.toString('hex'))).toMatchObject({
      cs: 0x23,
      fsBase: 0x1111n,
      cr3: 0x7000n,
      efer: 0xd01n,
    });
  });

  it('refuses packets of another machine', async () => {
    await failure(() => parseRegisters('00'.repeat(312)), 'NL_STUB_ERROR');
    await failure(() => parseRegisters('E01'), 'NL_STUB_ERROR');
  });

  it('uses the numbers of the target description', () => {
    const { rip, rflags, cs, gs, fsBase, kernelGsBase, cr0, cr3, cr8, efer } = REGISTER_NUMBERS;
    expect([rip, rflags, cs, gs, fsBase, kernelGsBase, cr0, cr3, cr8, efer]).toEqual([
      0x10, 0x11, 0x12, 0x17, 0x18, 0x1a, 0x1b, 0x1d, 0x1f, 0x20,
    ]);
  });

  it('writes cs, then ss, then other selectors, then the rest, little-endian', () => {
    expect(registerWrites({ rip: 0xffff_82d0_4020_0000n, ss: 0, fs: 0x3, cs: 0xe008, rflags: 2 })).toEqual([
      'P12=08e00000',
      'P13=00000000',
      'P16=03000000',
      'P10=00002040d082ffff',
      'P11=02000000',
    ]);
  });
});

const zero = (): CpuRegisters =>
  Object.fromEntries(
    (Object.keys(REGISTER_NUMBERS) as RegisterName[]).map((name) => [name, NARROW.has(name) ? 0 : 0n]),
  ) as unknown as CpuRegisters;
