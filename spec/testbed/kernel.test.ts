import { describe, expect, it } from 'vitest';
import { payloadOf, trimElf } from '../../src/testbed/kernel.js';

/** An ELF64 with one loadable segment of these bytes at 0x1000 and section headers behind it. */
function elf(segment: Buffer): Buffer {
  const file = Buffer.alloc(0x1000 + segment.length + 128, 0xee);
  file.fill(0, 0, 0x1000);
  file.writeUInt32BE(0x7f454c46, 0);
  file.writeUInt8(2, 4);
  file.writeBigUInt64LE(64n, 32);
  file.writeBigUInt64LE(BigInt(0x1000 + segment.length), 40);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt16LE(2, 60);
  file.writeUInt32LE(1, 64);
  file.writeBigUInt64LE(0x1000n, 64 + 8);
  file.writeBigUInt64LE(BigInt(segment.length), 64 + 32);
  file.writeBigUInt64LE(BigInt(segment.length), 64 + 40);
  segment.copy(file, 0x1000);
  return file;
}

describe('the kernel', () => {
  it('loses section headers and the zeros that a loader fills in', () => {
    const trimmed = trimElf(elf(Buffer.concat([Buffer.from('text\0text'), Buffer.alloc(5000)])));
    expect(trimmed.length).toBe(0x1000 + 9);
    expect(trimmed.toString('latin1', 0x1000)).toBe('text\0text');
    expect(trimmed.readBigUInt64LE(64 + 32)).toBe(9n);
    expect(trimmed.readBigUInt64LE(64 + 40)).toBe(5009n);
    expect(trimmed.readUInt16LE(60)).toBe(0);
  });

  it('is refused when it is truncated or no ELF file', () => {
    const whole = elf(Buffer.alloc(5000, 1));
    expect(() => trimElf(whole.subarray(0, 0x1100))).toThrow(expect.objectContaining({ code: 'NL_ELF_INVALID' }));
    expect(() => trimElf(Buffer.alloc(100))).toThrow(expect.objectContaining({ code: 'NL_ELF_INVALID' }));
    expect(() => payloadOf(Buffer.alloc(0x300))).toThrow(expect.objectContaining({ code: 'NL_ELF_INVALID' }));
  });
});
