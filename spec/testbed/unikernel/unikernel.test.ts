import { describe, expect, it } from 'vitest';
import { parseReport } from '../../../src/testbed/reports.js';
import { Assembler, R } from '../../../src/testbed/unikernel/assembler.js';
import { mixAfter, mixNext, mixStart } from '../../../src/testbed/unikernel/mix.js';
import { unikernel } from '../../../src/testbed/unikernel/program.js';
import { decode } from '../../../src/x86/decode.js';

const MAGIC = 'NL0123456789abcdef0123456789abcd';
const kernel = unikernel({ name: 'new1', magic: MAGIC, restMs: 50 });
const CONTENT = 4096;

describe('the chain of the unikernel', () => {
  it('is the one that the machine code computes', () => {
    // Read out of the memory of a real box, at its 132nd step.
    expect(mixAfter('new1', 132)).toBe('343ba6b4332afafbe720f5a3ff03e0901289d867c407b54915908b57c318b2e9');
  });

  it('depends on every bit of the digest before, and on the number of the step', () => {
    const start = mixStart('new1');
    const next = mixNext(start, 1);
    expect(mixNext(start, 2)).not.toBe(next);
    for (let i = 0; i < 64; i++) {
      const flipped = (Number.parseInt(start[i]!, 16) ^ 1).toString(16);
      expect(mixNext(start.slice(0, i) + flipped + start.slice(i + 1), 1)).not.toBe(next);
    }
  });
});

describe('the unikernel', () => {
  it('is an ELF file whose entry is the begin of its code', () => {
    expect(kernel.subarray(0, 4).toString('latin1')).toBe('\u007fELF');
    expect(kernel.readBigUInt64LE(24)).toBe(0x10000n);
  });

  it('says what Xen asks a PV kernel', () => {
    const notes = kernel.subarray(64 + 2 * 56, CONTENT).toString('latin1');
    expect(notes).toContain('generic');
    expect(notes).toContain('xen-3.0');
    expect(notes.split('Xen\0')).toHaveLength(9);
  });

  it('holds only instructions that there are, and jumps only to their begins', () => {
    const constants = kernel.indexOf('0123456789abcdef', CONTENT);
    const begins = new Set<bigint>();
    const targets = new Set<bigint>();
    let end = 0x10000n;
    for (const { address, next, target } of decode(kernel.subarray(CONTENT, constants), end)) {
      begins.add(address);
      if (target !== undefined) targets.add(target);
      end = next;
    }
    // Decoding ends early at bytes that are no instruction.
    expect(end).toBe(0x10000n + BigInt(constants - CONTENT));
    expect(targets.size).toBeGreaterThan(10);
    for (const target of targets) expect(begins).toContain(target);
  });

  it('reports in the form that is read', () => {
    const begin = kernel.lastIndexOf(MAGIC);
    const page = Buffer.alloc(4096);
    kernel.copy(page, 0, begin);
    expect(parseReport(page, MAGIC)).toEqual({
      ...{ name: 'new1', kind: 'pv', n: 0, digest: mixStart('new1'), errors: 0, note: '-', work: 'mix' },
    });
    const failed = page.toString('latin1').replace('note=-........', 'note=hypercall');
    expect(parseReport(Buffer.from(failed, 'latin1'), MAGIC)?.note).toBe('hypercall');
  });

  it('does not begin a page of its file with the magic, which would look like a report', () => {
    for (let at = 0; at < kernel.length; at += 4096) expect(kernel.toString('latin1', at, at + 32)).not.toBe(MAGIC);
  });
});

describe('the assembler', () => {
  const coded = (write: (code: Assembler) => void): string => {
    const code = new Assembler(0x1000);
    write(code);
    return code.finish().toString('hex');
  };

  it('writes high registers, and byte registers without their old names', () => {
    expect(coded((code) => code.set(R.r12, 1))).toBe('41bc01000000');
    expect(coded((code) => code.move(8, R.rbx, R.rsi))).toBe('4889f3');
    expect(coded((code) => code.store(1, { base: R.rdi }, R.rsi))).toBe('4088b42700000000');
  });

  it('resolves jumps in both directions', () => {
    const text = coded((code) => {
      code.label('begin');
      code.jump('end');
      code.jumpIf('jnz', 'begin');
      code.label('end');
    });
    expect(text).toBe('e906000000' + '0f85f5ffffff');
  });

  it('refuses a jump to nowhere', () => {
    expect(() => coded((code) => code.jump('nowhere'))).toThrow('no label');
  });
});
