import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isNinelivesError } from '../../src/common/errors.js';
import { readUnits } from '../../src/layout/dwarf.js';
import { collectLayouts, type Layouts } from '../../src/layout/dwarf-layouts.js';
import { ElfFile } from '../../src/layout/elf.js';
import * as dw from './dwarf-writer.js';
import { writeElf } from './elf-writer.js';

const GNU4: dw.DwarfStyle = { version: 4, strings: 'offset', addresses: 'direct' };
const GNU5: dw.DwarfStyle = { version: 5, strings: 'offset', addresses: 'direct' };
const STYLES: dw.DwarfStyle[] = [
  { version: 4, strings: 'inline', addresses: 'direct' },
  GNU4,
  GNU5,
  { version: 5, strings: 'indexed', addresses: 'indexed' },
];

const file = (units: dw.WrittenUnit[], style: dw.DwarfStyle): Uint8Array =>
  writeElf({ sections: dw.writeDwarf(units, style), symbols: [] });
const read = (units: dw.WrittenUnit[], style: dw.DwarfStyle = GNU5): Layouts =>
  collectLayouts(readUnits(new ElfFile(file(units, style))));

const U32 = dw.base('u32', 'unsigned int', 4, 0x07);
const U64 = dw.base('u64', 'long unsigned int', 8, 0x07);

describe.each(STYLES)('DWARF $version with $strings strings and $addresses addresses', (style) => {
  const layouts = read(
    [
      {
        name: './common/timer.c',
        entries: [
          U32,
          U64,
          dw.base('s64', 'long int', 8, 0x05),
          dw.base('char', 'char', 1, 0x06),
          dw.base('bool', '_Bool', 1, 0x02),
          dw.pointer('void*'),
          dw.constant('const u32', 'u32'),
          dw.typedef('s_time_t', 's_time_t', 's64'),
          dw.struct(
            'timer',
            'timer',
            48,
            dw.member('expires', 's_time_t', { offset: 0 }),
            dw.member('cpu', 'const u32', { offset: 8 }),
            dw.member('next', 'timer*', { offset: 16 }),
          ),
          dw.pointer('timer*', 'timer'),
          dw.array('heap', 'timer*', 4),
          dw.array('grid', 'u32', 3, 300),
          dw.array('open', 'u64', undefined),
          dw.array('zero', 'u64', 0),
          dw.struct(
            'timers',
            'timers',
            4000,
            dw.member('heap', 'heap', { offset: 0 }),
            dw.member('grid', 'grid', { offset: 400 }),
            dw.member('tail', 'open', { offset: 4000 }),
            dw.member('none', 'zero', { offset: 4000 }),
            dw.member('flag', 'bool', { offset: 32 }),
            dw.member('letter', 'char', { offset: 33 }),
            dw.member('any', 'void*', { offset: 40 }),
          ),
          dw.enumeration('state', 'timer_state', 4, { DOWN: -1, IDLE: 0, BUSY: 1000 }),
          dw.enumeration('softirq', undefined, 4, { TIMER_SOFTIRQ: 0, RCU_SOFTIRQ: 1 }),
          dw.declared('decl', 'idle_loop_count', 'u64'),
          dw.defines('decl', 0xffff82d040400000n),
          dw.subprogram('schedule', dw.variable('last', 'state', 0xffff82d040400008n)),
          dw.declared('asm', 'stack_start', 'u64'),
        ],
      },
    ],
    style,
  );

  it('reads structs with members of every kind', () => {
    expect(layouts.structs.get('timer')).toEqual({
      kind: 'struct',
      size: 48,
      members: { expires: '0 s64', cpu: '8 u32', next: '16 *struct timer' },
    });
    expect(layouts.structs.get('timers')?.members).toEqual({
      heap: '0 [4]*struct timer',
      grid: '400 [3][300]u32',
      tail: '4000 []u64',
      none: '4000 [0]u64',
      flag: '32 bool',
      letter: '33 char',
      any: '40 *void',
    });
  });

  it('reads enums, the anonymous ones by their first constant', () => {
    expect(Object.fromEntries(layouts.enums)).toEqual({
      timer_state: { DOWN: -1, IDLE: 0, BUSY: 1000 },
      TIMER_SOFTIRQ: { TIMER_SOFTIRQ: 0, RCU_SOFTIRQ: 1 },
    });
  });

  it('reads variables that are declared first, static in a function, or defined elsewhere', () => {
    const found = layouts.variables.filter((v) => v.address !== undefined).map((v) => [v.name, v.address, v.type]);
    expect(found).toEqual([
      ['idle_loop_count', 0xffff82d040400000n, 'u64'],
      ['last', 0xffff82d040400008n, 'enum:u32 timer_state'],
    ]);
    expect(layouts.variables.find((v) => v.name === 'stack_start')).toMatchObject({ address: undefined, type: 'u64' });
  });
});

describe('struct layouts', () => {
  const unit = (name: string, ...entries: dw.Node[]): dw.WrittenUnit => ({
    name,
    entries: [U32, U64, dw.base('u16', 'short unsigned int', 2, 0x07), ...entries],
  });

  it('have bit fields at the same place however they are described', () => {
    // struct { u16 cpu : 12; u16 count : 4; } at byte 4, as in Xen's spinlock.
    const five = read([
      unit(
        'a.c',
        dw.struct(
          's',
          'spinlock',
          8,
          dw.member('cpu', 'u16', { bitSize: 12, dataBitOffset: 32 }),
          dw.member('count', 'u16', { bitSize: 4, dataBitOffset: 44 }),
        ),
      ),
    ]);
    const four = read(
      [
        unit(
          'a.c',
          dw.struct(
            's',
            'spinlock',
            8,
            dw.member('cpu', 'u16', { offset: 4, byteSize: 2, bitSize: 12, bitOffset: 4 }),
            dw.member('count', 'u16', { offset: 4, byteSize: 2, bitSize: 4, bitOffset: 0 }),
          ),
        ),
      ],
      GNU4,
    );
    expect(five.structs.get('spinlock')?.members).toEqual({ cpu: '4:0+12 u16', count: '4:12+4 u16' });
    expect(four.structs.get('spinlock')).toEqual(five.structs.get('spinlock'));
  });

  it('count a packed bit field that crosses a storage unit from the byte it begins in', () => {
    const { structs } = read([
      unit('a.c', dw.struct('s', 'packed', 4, dw.member('f', 'u16', { bitSize: 10, dataBitOffset: 12 }))),
    ]);
    expect(structs.get('packed')?.members).toEqual({ f: '1:4+10 u16' });
  });

  it('name the members of anonymous structs and unions as C does', () => {
    const { structs } = read([
      unit(
        'a.c',
        dw.struct(
          'v',
          'arch_vcpu',
          32,
          dw.member('flags', 'u64', { offset: 0 }),
          dw.union(
            'u',
            undefined,
            16,
            dw.member('pv', 'u64', { offset: 0 }),
            dw.struct('i', undefined, 16, dw.member('a', 'u32', { offset: 4 }), dw.member('b', 'u64', { offset: 8 })),
            dw.member(undefined, 'i', { offset: 0 }),
          ),
          dw.member(undefined, 'u', { offset: 8 }),
        ),
      ),
    ]);
    expect(structs.get('arch_vcpu')?.members).toEqual({ flags: '0 u64', pv: '8 u64', a: '12 u32', b: '16 u64' });
  });

  it('name unnamed structs after their typedef, their member or their variable', () => {
    const { structs, variables } = read([
      unit(
        'a.c',
        dw.struct('1', undefined, 4, dw.member('cnts', 'u32', { offset: 0 })),
        dw.typedef('rwlock_t', 'rwlock_t', '1'),
        dw.struct(
          'd',
          'domain',
          8,
          dw.struct('2', undefined, 4, dw.member('lock', 'rwlock_t', { offset: 0 })),
          dw.member('mca', '2', { offset: 4 }),
        ),
        dw.struct('3', undefined, 8, dw.member('x', 'd', { offset: 0 })),
        dw.array('3[]', '3', 2),
        dw.variable('table', '3[]', 64n),
      ),
    ]);
    expect(structs.get('rwlock_t')?.size).toBe(4);
    expect(structs.get('domain')?.members).toEqual({ mca: '4 struct domain.mca' });
    expect(structs.get('domain.mca')?.members).toEqual({ lock: '0 struct rwlock_t' });
    expect(variables[0]?.type).toBe('[2]struct table');
    expect(structs.get('table')?.members).toEqual({ x: '0 struct domain' });
  });

  it('keep static structs of one name apart by file, and refer to the right one', () => {
    const range = (size: number): dw.Node =>
      dw.struct('r', 'range', size, dw.member('from', 'u64', { offset: size - 8 }));
    const owner = (name: string): dw.Node => dw.struct('o', name, 8, dw.member('p', 'r*', { offset: 0 }));
    const { structs, variables } = read([
      unit('common/a.c', range(16), dw.pointer('r*', 'r'), owner('owner_a'), dw.variable('list', 'r', 64n)),
      unit('common/b.c', range(32), dw.pointer('r*', 'r'), owner('owner_b')),
    ]);
    expect(structs.has('range')).toBe(false);
    expect(structs.get('range@common/a.c')?.size).toBe(16);
    expect(structs.get('range@common/b.c')?.size).toBe(32);
    expect(structs.get('owner_b')?.members).toEqual({ p: '0 *struct range@common/b.c' });
    expect(variables[0]?.type).toBe('struct range@common/a.c');
  });

  it('count equal definitions in many files once, and the odd one out by its file', () => {
    const s = (size: number): dw.Node => dw.struct('s', 'shared', size, dw.member('x', 'u32', { offset: 0 }));
    const { structs } = read([
      unit('a.c', s(4)),
      unit('b.c', s(4)),
      unit('c.c', s(8)),
      unit('d.c', dw.opaque('s', 'shared')),
    ]);
    expect([...structs].map(([name, { size }]) => [name, size])).toEqual([
      ['shared', 4],
      ['shared@c.c', 8],
    ]);
  });

  it('come back as they were written', () => {
    const name = fc.stringMatching(/^[a-z_]{1,12}$/);
    const members = fc.uniqueArray(
      fc.record({ name, offset: fc.integer({ min: 0, max: 100_000 }), wide: fc.boolean() }),
      { selector: (m) => m.name, maxLength: 12 },
    );
    fc.assert(
      fc.property(members, fc.integer({ min: 1, max: 1 << 20 }), fc.constantFrom(...STYLES), (list, size, style) => {
        const { structs } = read(
          [
            unit(
              'a.c',
              dw.struct(
                's',
                's',
                size,
                ...list.map((m) => dw.member(m.name, m.wide ? 'u64' : 'u16', { offset: m.offset })),
              ),
            ),
          ],
          style,
        );
        expect(structs.get('s')).toEqual({
          kind: 'struct',
          size,
          members: Object.fromEntries(list.map((m) => [m.name, `${m.offset} ${m.wide ? 'u64' : 'u16'}`])),
        });
      }),
    );
  });
});

describe('DWARF that cannot be read', () => {
  const units = [
    {
      name: 'a.c',
      entries: [U64, dw.struct('s', 's', 8, dw.member('x', 'u64', { offset: 0 })), dw.variable('v', 's', 64n)],
    },
  ];
  const outcome = (bytes: Uint8Array): unknown => {
    try {
      collectLayouts(readUnits(new ElfFile(bytes)));
    } catch (error) {
      return error;
    }
    return undefined;
  };

  it('is an error of ours when there is none, or a version we do not know', () => {
    expect(outcome(writeElf({ sections: [] }))).toMatchObject({
      code: 'NL_ELF_INVALID',
      message: expect.stringContaining('.debug_info') as string,
    });
    const [info, ...rest] = dw.writeDwarf(units, GNU5);
    info!.bytes![4] = 3;
    expect(outcome(writeElf({ sections: [info!, ...rest] }))).toMatchObject({
      code: 'NL_ELF_INVALID',
      message: expect.stringContaining('version 3') as string,
    });
  });

  it.each([0, 1, 2])('is an error of ours at any truncation of section %i', (index) => {
    const sections = dw.writeDwarf(units, GNU5);
    const whole = sections[index]!;
    for (let length = whole.bytes!.length - 1; length >= 0; length--) {
      const cut = sections.map((s, i) => (i === index ? { ...s, bytes: whole.bytes!.subarray(0, length) } : s));
      const error = outcome(writeElf({ sections: cut }));
      // An empty .debug_info is a file without any unit; cut padding in the others is never read.
      if (error !== undefined) expect(isNinelivesError(error, 'NL_ELF_INVALID')).toBe(true);
      else expect(index === 0 ? length : whole.bytes!.length - length).toBeLessThanOrEqual(1);
    }
  });

  it('does not hang or overflow on types that refer to themselves', () => {
    const layouts = read([
      {
        name: 'a.c',
        entries: [
          dw.typedef('t', 't', 't'),
          dw.pointer('p', 'p'),
          dw.array('a', 'a', 2),
          dw.struct('s', 's', 8, dw.member(undefined, 's', { offset: 0 }), dw.member('x', 't', { offset: 0 })),
          dw.variable('v', 'a', 64n),
        ],
      },
    ]);
    expect(layouts.variables[0]?.type).toBe('[2]void');
  });

  it('never fails in another way when bytes are damaged', () => {
    const bytes = file(units, GNU5);
    fc.assert(
      fc.property(fc.integer({ min: 64, max: bytes.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, value) => {
        const damaged = Uint8Array.from(bytes);
        damaged[at] = value;
        const error = outcome(damaged);
        expect(error === undefined || isNinelivesError(error, 'NL_ELF_INVALID')).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});
