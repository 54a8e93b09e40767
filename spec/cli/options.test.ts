import { describe, expect, it } from 'vitest';
import { parseAccelerator, parseCpus, parseMemory, parseRuns, parseSeed } from '../../src/cli/options.js';

const usageError = expect.objectContaining({ code: 'NL_USAGE', fix: expect.any(String) });

describe('option values', () => {
  it.each([
    ['2048', 2048],
    ['2048M', 2048],
    ['2048MiB', 2048],
    ['2G', 2048],
    ['2g', 2048],
    ['2GiB', 2048],
    ['2 GB', 2048],
    ['1.5G', 1536],
    ['1G', 1024],
    ['16G', 16_384],
  ])('reads memory "%s" as %i MiB', (text, mebibytes) => expect(parseMemory(text)).toBe(mebibytes));

  it.each(['', '0', '512M', '17G', '1e3', '2T', 'two', '-2G', '2.0005G', '0x800', 'G', '2048k'])(
    'refuses memory "%s"',
    (text) => expect(() => parseMemory(text)).toThrow(usageError),
  );

  it('takes 1 to 16 CPUs', () => {
    expect(parseCpus('1')).toBe(1);
    expect(parseCpus('16')).toBe(16);
    for (const text of ['0', '17', '4.5', '-1', '', ' 4', '4x', '1e1'])
      expect(() => parseCpus(text)).toThrow(usageError);
  });

  it('takes runs from 1', () => {
    expect(parseRuns('50')).toBe(50);
    for (const text of ['0', '100001', 'many']) expect(() => parseRuns(text)).toThrow(usageError);
  });

  it('takes seeds of 32 bits, 0 too', () => {
    expect(parseSeed('0')).toBe(0);
    expect(parseSeed('4294967295')).toBe(0xffff_ffff);
    expect(() => parseSeed('4294967296')).toThrow(usageError);
  });

  it('knows two accelerators', () => {
    expect(parseAccelerator('kvm')).toBe('kvm');
    expect(() => parseAccelerator('hvf')).toThrow(usageError);
  });
});
