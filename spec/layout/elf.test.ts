import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isNinelivesError } from '../../src/common/errors.js';
import { ElfFile } from '../../src/layout/elf.js';
import { writeElf } from './elf-writer.js';

const TEXT = 0xffff82d040200000n;
const DATA = 0xffff82d040300000n;
const code = Uint8Array.from({ length: 64 }, (_, i) => i);
const image = writeElf({
  buildId: '00112233445566778899aabbccddeeff00112233',
  sections: [
    { name: '.text', address: TEXT, bytes: code, executable: true },
    { name: '.bss', address: DATA, size: 64 },
  ],
  symbols: [
    { name: 'init', address: TEXT + 32n, size: 8, file: 'a.c' },
    { name: 'init', address: TEXT + 40n, size: 8, file: 'b.c' },
    { name: 'inside', address: TEXT + 4n, kind: 'label', file: 'entry.S' },
    { name: '_stext', address: TEXT, kind: 'label', global: true },
    { name: 'schedule', address: TEXT, size: 32, global: true },
    { name: 'entry', address: TEXT + 50n, kind: 'label', global: true },
    { name: 'per_cpu__timers', address: DATA, size: 16, kind: 'object', global: true },
  ],
});

const failure = (run: () => unknown): unknown => {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
};
/** Everything that reads the file. */
const readAll = (bytes: Uint8Array): void => {
  const elf = new ElfFile(bytes);
  void elf.buildId;
  elf.symbols.at(TEXT);
  elf.bytesAt(TEXT, 4);
};

describe('an ELF file', () => {
  const elf = new ElfFile(image);

  it('gives its build-id', () => {
    expect(elf.buildId).toBe('00112233445566778899aabbccddeeff00112233');
  });

  it('gives the bytes at a virtual address, and none for what it does not hold', () => {
    expect(elf.bytesAt(TEXT + 16n, 4)).toEqual(Uint8Array.of(16, 17, 18, 19));
    expect(elf.bytesAt(TEXT + 62n, 4)).toBeUndefined();
    expect(elf.bytesAt(DATA, 4)).toBeUndefined();
  });

  it('lists static symbols of the same name, and tells them apart by file', () => {
    expect(elf.symbols.named('init').map((s) => s.address)).toEqual([TEXT + 32n, TEXT + 40n]);
    expect(elf.symbols.named('b.c#init').map((s) => s.address)).toEqual([TEXT + 40n]);
    expect(elf.symbols.named('nothing')).toEqual([]);
  });

  it.each([
    [TEXT, 'schedule', 0, 'the function, not the mark at its address'],
    [TEXT + 6n, 'schedule', 6, 'the function, not a label inside it'],
    [TEXT + 41n, 'init', 1, 'the nearer of two'],
    [TEXT + 60n, 'entry', 10, 'an untyped label reaches as far as nothing else comes'],
    [DATA + 3n, 'per_cpu__timers', 3, 'data'],
  ])('resolves 0x%x to %s+%d: %s', (va, name, offset) => {
    const found = elf.symbols.at(va);
    expect([found?.symbol.name, found?.offset]).toEqual([name, offset]);
  });

  it('resolves nothing outside its sections', () => {
    expect(elf.symbols.at(TEXT - 1n)).toBeUndefined();
    expect(elf.symbols.at(DATA + 64n)).toBeUndefined();
  });

  it('is refused at any truncation, with what and where', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: image.length - 1 }), (length) => {
        const error = failure(() => readAll(image.subarray(0, length)));
        expect(isNinelivesError(error, 'NL_ELF_INVALID')).toBe(true);
        expect((error as Error).message).toMatch(/.+ \(.+\)/);
      }),
    );
  });

  it('never fails in another way when bytes are damaged', () => {
    const damage = fc.record({
      at: fc.integer({ min: 0, max: image.length - 1 }),
      value: fc.integer({ min: 0, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 8 }), (places) => {
        const bytes = Uint8Array.from(image);
        for (const { at, value } of places) bytes[at] = value;
        const error = failure(() => readAll(bytes));
        expect(error === undefined || isNinelivesError(error, 'NL_ELF_INVALID')).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    ['not ELF', 0, 0x4d],
    ['32-bit', 4, 1],
    ['big-endian', 5, 2],
    ['another machine', 18, 40],
  ])('is refused when it is %s', (_, at, value) => {
    const bytes = Uint8Array.from(image);
    bytes[at] = value;
    expect(
      isNinelivesError(
        failure(() => readAll(bytes)),
        'NL_ELF_INVALID',
      ),
    ).toBe(true);
  });

  it('is refused when it is stripped', () => {
    const stripped = new ElfFile(
      writeElf({ sections: [{ name: '.text', address: TEXT, bytes: code, executable: true }] }),
    );
    expect(() => stripped.symbols).toThrow(/stripped/);
    expect(stripped.buildId).toBeUndefined();
  });
});
