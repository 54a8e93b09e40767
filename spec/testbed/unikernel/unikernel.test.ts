import { describe, expect, it } from 'vitest';
import { Assembler, R } from '../../../src/testbed/unikernel/assembler.js';
import { mixAfter, mixNext, mixStart, type UnikernelWork } from '../../../src/testbed/unikernel/mix.js';
import { unikernel } from '../../../src/testbed/unikernel/program.js';
import { CHECK_ROOM, CHECKS } from '../../../src/testbed/unikernel/runtime.js';
import { FakeXen, type Faults } from './fake-xen.js';

const MAGIC = 'NL0123456789abcdef0123456789abcd';
const kernelFor = (work: UnikernelWork): Buffer => unikernel({ name: 'new1', magic: MAGIC, restMs: 50, work });
const kernel = kernelFor('blkbench');
const CONTENT = 4096;

describe('the chain of the unikernel', () => {
  it('is the one that the machine code computes', () => {
    // Read out of the memory of a real box, at its 132nd step.
    expect(mixAfter('new1', 132, 'mix')).toBe('343ba6b4332afafbe720f5a3ff03e0901289d867c407b54915908b57c318b2e9');
  });

  it.each(['mix', 'blkbench'] as const)(
    'depends on every digit of the digest before, and on the number of the step (%s)',
    (work) => {
      const start = mixStart('new1');
      const next = mixNext(start, 1, work);
      expect(mixNext(start, 2, work)).not.toBe(next);
      for (let i = 0; i < 64; i++) {
        const flipped = (Number.parseInt(start[i]!, 16) ^ 1).toString(16);
        expect(mixNext(start.slice(0, i) + flipped + start.slice(i + 1), 1, work)).not.toBe(next);
      }
    },
  );
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

  it('is another kernel with a disk and without', () => {
    expect(kernelFor('mix').length).toBeLessThan(kernel.length);
  });

  it('does not begin a page of its file with the magic, which would look like a report', () => {
    for (let at = 0; at < kernel.length; at += 4096) expect(kernel.toString('latin1', at, at + 32)).not.toBe(MAGIC);
  });
});

describe('the unikernel on a hypervisor that works', { timeout: 60_000 }, () => {
  it.each(['mix', 'blkbench'] as const)('computes the chain (%s)', (work) => {
    const xen = new FakeXen(kernelFor(work));
    for (const n of [1, 2, 3]) {
      expect(xen.run(n)).toBe('steps are done');
      expect(xen.report()).toEqual({
        ...{
          name: 'new1',
          kind: 'pv',
          n,
          digest: mixAfter('new1', n, work),
          errors: 0,
          note: '-',
          work,
          stage: 'rest',
        },
      });
    }
  });

  it('needs no disk for its mix', () => {
    const xen = new FakeXen(kernelFor('mix'), { disk: 'none' });
    expect(xen.run(2)).toBe('steps are done');
    expect(xen.events.sent).toBe(0);
  });

  it('writes another part of the disk in each of 16 steps, and then begins again', () => {
    const xen = new FakeXen(kernel);
    expect(xen.run(16)).toBe('steps are done');
    const pages = Array.from({ length: 256 }, (_, i) => xen.disk.toString('hex', 4096 * i, 4096 * (i + 1)));
    expect(new Set(pages).size).toBe(256);
    const first = Buffer.from(xen.disk.subarray(0, 65536));
    const others = Buffer.from(xen.disk.subarray(65536));
    expect(xen.run(17)).toBe('steps are done');
    expect(first.equals(xen.disk.subarray(0, 65536))).toBe(false);
    expect(others.equals(xen.disk.subarray(65536))).toBe(true);
    expect(xen.report()?.digest).toBe(mixAfter('new1', 17, 'blkbench'));
  });
});

describe('the unikernel on one that does not', { timeout: 60_000 }, () => {
  const broken = (faults: Faults, steps: number = 2): FakeXen & { stop: string } => {
    const xen = new FakeXen(kernel, faults);
    return Object.assign(xen, { stop: xen.run(steps) });
  };
  const READING = 0;
  const WRITING = 1;

  it.each([
    ['what is written', WRITING],
    ['what is read', READING],
  ])('sees one wrong bit in %s, and so does the supervisor', (_, wrong) => {
    let transfers = 0;
    const xen = broken({
      spoil: (data, operation) => {
        if (operation === wrong && transfers++ === 16 + 5) data[4000]! ^= 4;
      },
    });
    expect(xen.report()).toMatchObject({ n: 2, errors: 1, note: 'data' });
    expect(xen.report()?.digest).not.toBe(mixAfter('new1', 2, 'blkbench'));
  });

  it('sees that a request has failed', () => {
    expect(broken({ status: -1 }).report()).toMatchObject({ n: 2, errors: 8, note: 'disk' });
  });

  it('sees a response to something that it has not asked', () => {
    expect(broken({ responseId: (id) => id + 2n }).report()).toMatchObject({ errors: 8, note: 'answer' });
  });

  it('sees that the backend holds on to its pages', () => {
    expect(broken({ keepsPages: true }, 1).report()).toMatchObject({ n: 1, errors: 32, note: 'grant' });
  });

  it('counts hypercalls that fail', () => {
    let mappings = 0;
    const xen = broken({ hypercall: (number) => (number === 14 && ++mappings === 4 ? -22 : 0) });
    expect(xen.report()).toMatchObject({ n: 2, errors: 1, note: 'hypercall', digest: mixAfter('new1', 2, 'blkbench') });
  });

  it('says what it waits for when no answer comes from the disk', () => {
    const xen = broken({ disk: 'silent' });
    expect(xen.stop).toBe('blocks for good');
    expect(xen.report()).toMatchObject({ n: 0, errors: 0, note: '-', stage: 'write' });
  });

  it.each([
    ['there is no disk', { disk: 'none' }, 'xenstore'],
    ['its backend is closed', { backendState: '6' }, 'backend'],
    ['its disk is too small', { sectors: 2047 }, 'sectors'],
  ] as const)('gives up with the reason when %s', (_, faults, note) => {
    const xen = broken(faults);
    expect(xen.stop).toBe('blocks for good');
    expect(xen.report()).toMatchObject({ n: 0, errors: 1, note });
  });

  it('goes on looking for a backend that does not connect', () => {
    const xen = broken({ backendState: '2' }, 0);
    expect(xen.report()).toMatchObject({ n: 0, errors: 0, stage: 'backend' });
  });

  it('has room for the names of all checks', () => {
    for (const check of CHECKS) expect(check.length).toBeLessThanOrEqual(CHECK_ROOM);
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

  it('refuses a label twice', () => {
    const twice = (code: Assembler): void => {
      code.label('here');
      code.label('here');
    };
    expect(() => coded(twice)).toThrow('two labels');
  });

  it('refuses a jump to nowhere', () => {
    expect(() => coded((code) => code.jump('nowhere'))).toThrow('no label');
  });
});
