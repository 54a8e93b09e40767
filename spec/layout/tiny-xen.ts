/** A made-up "Xen" of a few functions and structs: machine code, symbols and DWARF, for tests of profiles. */
import { ElfFile } from '../../src/layout/elf.js';
import * as dw from './dwarf-writer.js';
import { type WrittenSymbol, writeElf } from './elf-writer.js';

export const TEXT = 0xffff82d040200000n;
export const RODATA = 0xffff82d040300000n;
export const DATA = 0xffff82d040400000n;

export interface TinyOptions {
  readonly buildId?: string;
  readonly dwarf?: boolean;
  /** Distance at which `schedule` reads a member; what a changed struct changes. */
  readonly distance?: number;
  /** Moves the code by some bytes, as unrelated changes before it do. */
  readonly shift?: number;
  /** Moves the read-only data. */
  readonly dataShift?: number;
  /** Replaces one instruction of one of the functions. */
  readonly changed?: boolean;
  readonly version?: string;
}

const FUNCTIONS = 100;

const int32 = (value: number): number[] => [
  value & 0xff,
  (value >> 8) & 0xff,
  (value >> 16) & 0xff,
  (value >> 24) & 0xff,
];

/**
 * `f0`...: read a member and a string, jump, call the next; `schedule`: reads the member in question. Each function is
 * 32 bytes with its padding.
 */
function code(options: TinyOptions, start: bigint): { bytes: Uint8Array; symbols: WrittenSymbol[] } {
  const bytes: number[] = [];
  const symbols: WrittenSymbol[] = [];
  for (let i = 0; i < FUNCTIONS; i++) {
    const at = start + BigInt(bytes.length);
    const last = i === FUNCTIONS - 1;
    const body = [0x48, 0x8b, 0x47, last ? (options.distance ?? 0x10) : 8 + (i % 8)]; // mov rax, [rdi+distance]
    body.push(0x48, 0x8d, 0x35, ...int32(Number(RODATA + BigInt(options.dataShift ?? 0) - (at + 11n)))); // lea rsi, [string]
    body.push(0x74, 0x05); // je over the call
    body.push(0xe8, ...int32(last ? -(16 + (body.length - 11)) - bytes.length - 2 : 32 - 18)); // call the next, or the first
    body.push(options.changed === true && i === 3 ? 0x90 : 0x50, 0x31, 0xc0, 0xc3); // push rax; xor eax, eax; ret
    while (body.length < 32) body.push(0x90);
    symbols.push({ name: last ? 'schedule' : `f${i}`, address: at, size: 22, global: true });
    bytes.push(...body);
  }
  return { bytes: Uint8Array.from(bytes), symbols };
}

export const tinyBytes = (options: TinyOptions = {}): Uint8Array => {
  const start = TEXT + BigInt(options.shift ?? 0);
  const { bytes, symbols } = code(options, start);
  const member = dw.member;
  const entries = [
    dw.base('u8', 'unsigned char', 1, 0x08),
    dw.base('u16', 'short unsigned int', 2, 0x07),
    dw.base('u32', 'unsigned int', 4, 0x07),
    dw.base('s32', 'int', 4, 0x05),
    dw.base('u64', 'long unsigned int', 8, 0x07),
    dw.struct(
      'spinlock',
      'spinlock',
      8,
      member('head_tail', 'u32', { offset: 0 }),
      member('recurse_cpu', 'u16', { bitSize: 12, dataBitOffset: 32 }),
    ),
    dw.typedef('spinlock_t', 'spinlock_t', 'spinlock'),
    dw.struct('rw', undefined, 12, member('cnts', 'u32', { offset: 0 }), member('lock', 'spinlock_t', { offset: 4 })),
    dw.typedef('rwlock_t', 'rwlock_t', 'rw'),
    dw.struct('prw', 'percpu_rwlock', 16, member('rwlock', 'rwlock_t', { offset: 0 })),
    dw.struct('bounce', 'trap_bounce', 16, member('flags', 'u8', { offset: 12 })),
    dw.struct('pv', 'pv_vcpu', 24, member('trap_bounce', 'bounce', { offset: 8 })),
    dw.struct('hvm', 'hvm_vcpu', 24, member('tm_lock', 'spinlock_t', { offset: 8 })),
    dw.struct(
      'arch',
      'arch_vcpu',
      40,
      dw.union('u', undefined, 24, member('pv', 'pv', { offset: 0 }), member('hvm', 'hvm', { offset: 0 })),
      member('flags', 'u64', { offset: 0 }),
      member(undefined, 'u', { offset: 16 }),
    ),
    dw.array('virq', 'u16', 24),
    dw.array('locks', 'spinlock_t', 2),
    dw.struct('rcu', 'rcu_lock', 0),
    dw.struct(
      'vcpu',
      'vcpu',
      128,
      member('vcpu_id', 's32', { offset: 0 }),
      member('virq', 'virq', { offset: 4 }),
      // Release builds have empty structs, which share their place with the next member.
      member('rcu_lock', 'rcu', { offset: 56 }),
      member('locks', 'locks', { offset: 56 }),
      member('arch', 'arch', { offset: 72 }),
    ),
    dw.pointer('vcpu*', 'vcpu'),
    dw.array('vcpu*[]', 'vcpu*', 8),
    dw.struct('timers', 'timers', 64, member('lock', 'spinlock_t', { offset: 16 })),
    dw.enumeration('e', undefined, 4, { TIMER_SOFTIRQ: 0, RCU_SOFTIRQ: 1 }),
    dw.variable('heap_lock', 'spinlock_t', DATA),
    dw.variable('idle_vcpu', 'vcpu*[]', DATA + 64n),
    dw.variable('per_cpu__timers', 'timers', DATA + 128n),
    dw.variable('count', 'u32', DATA + 256n),
  ];
  const strings = Buffer.from(`a string\0${options.version ?? '4.17.9-test'}\0`, 'latin1');
  return writeElf({
    buildId: options.buildId ?? 'aa'.repeat(20),
    sections: [
      { name: '.text', address: start, bytes, executable: true },
      { name: '.rodata', address: RODATA, bytes: Buffer.concat([Buffer.alloc(options.dataShift ?? 0), strings]) },
      { name: '.bss', address: DATA, size: 512 },
      { name: '.comment', bytes: Buffer.from('GCC: test 1.0\0', 'latin1') },
      ...(options.dwarf === false
        ? []
        : dw.writeDwarf([{ name: './common/all.c', entries }], { version: 5, strings: 'offset', addresses: 'direct' })),
    ],
    symbols: [
      { name: 'count.3', address: DATA + 256n, size: 4, kind: 'object', file: 'all.c' },
      { name: 'count.3', address: DATA + 260n, size: 4, kind: 'object', file: 'other.c' },
      ...symbols,
      { name: 'heap_lock', address: DATA, size: 8, kind: 'object', global: true },
      { name: 'idle_vcpu', address: DATA + 64n, size: 64, kind: 'object', global: true },
      { name: 'per_cpu__timers', address: DATA + 128n, size: 64, kind: 'object', global: true },
    ],
  });
};

export const tinyXen = (options: TinyOptions = {}): ElfFile => new ElfFile(tinyBytes(options));
