/**
 * A CPU's registers in QEMU's debugger stub: the layout of the `g` packet and the numbers for `P`.
 *
 * Trap: while a CPU is not in a 64-bit code segment, QEMU 7.2 cuts the general registers to 32 bits, shows r8 to r15 as 0,
 * and gives the segment bases and control registers 4 bytes each, so its `g` packet is 36 bytes shorter (QEMU 7.2,
 * target/i386/gdbstub.c). Such a CPU executes a guest's 32-bit code; to take it over, write `cs` first, which
 * `registerWrites` always does.
 */
import { NinelivesError } from '../common/errors.js';
import { type CpuRegisters, GENERAL_REGISTERS, type RegisterName } from '../x86/registers.js';

/** Bytes of a `g` packet of a CPU in a 64-bit code segment. */
export const LONG_MODE_SIZE = 608;
/** The same outside of 64-bit code: nine registers are 4 bytes shorter. */
export const SHORT_MODE_SIZE = 572;

const SEGMENTS = ['cs', 'ss', 'ds', 'es', 'fs', 'gs'] as const;
const SYSTEM = ['fsBase', 'gsBase', 'kernelGsBase', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'] as const;

/** Numbers for `p` and `P`: the order of QEMU's target description (gdb-xml/i386-64bit.xml). */
export const REGISTER_NUMBERS: Readonly<Record<RegisterName, number>> = Object.fromEntries(
  [...GENERAL_REGISTERS, 'rip', 'rflags', ...SEGMENTS, ...SYSTEM].map((name, index) => [name, index]),
) as Record<RegisterName, number>;

const FOUR_BYTES: ReadonlySet<RegisterName> = new Set<RegisterName>(['rflags', ...SEGMENTS]);

/** The registers in the hex text of a `g` reply. @throws NL_STUB_ERROR when it has neither known length. */
export function parseRegisters(hexText: string): CpuRegisters {
  const size = hexText.length / 2;
  if (size !== LONG_MODE_SIZE && size !== SHORT_MODE_SIZE)
    throw new NinelivesError('NL_STUB_ERROR', `the stub gave ${size} bytes of registers, not ${LONG_MODE_SIZE}`, {
      fix: 'use qemu-system-x86_64 7.2 or newer; other targets and stubs have other registers',
    });
  const bytes = Buffer.from(hexText.slice(0, 2 * 240), 'hex');
  const wide = size === LONG_MODE_SIZE;
  const registers: Partial<Record<RegisterName, bigint | number>> = {};
  let at = 0;
  for (const name of GENERAL_REGISTERS) {
    registers[name] = bytes.readBigUInt64LE(at);
    at += 8;
  }
  registers.rip = bytes.readBigUInt64LE(at);
  at += 8;
  registers.rflags = bytes.readUInt32LE(at);
  at += 4;
  for (const name of SEGMENTS) {
    registers[name] = bytes.readUInt32LE(at);
    at += 4;
  }
  for (const name of SYSTEM) {
    registers[name] = wide ? bytes.readBigUInt64LE(at) : BigInt(bytes.readUInt32LE(at));
    at += wide ? 8 : 4;
  }
  return registers as unknown as CpuRegisters;
}

/** The `g` reply that would carry these registers; floating point and vector registers are 0. For fake stubs. */
export function formatRegisters(registers: CpuRegisters): string {
  const bytes = Buffer.alloc(LONG_MODE_SIZE);
  let at = 0;
  for (const name of Object.keys(REGISTER_NUMBERS) as RegisterName[]) {
    const value = registers[name];
    if (FOUR_BYTES.has(name)) at = bytes.writeUInt32LE(Number(value) >>> 0, at);
    else at = bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), at);
  }
  return bytes.toString('hex');
}

/**
 * `P` packets for these values, in an order that is safe for a CPU in any mode: `cs` (switches the stub's view to 64 bits),
 * then `ss` (sets the privilege level), then the other selectors (loading one changes its base), then all else.
 */
export function registerWrites(values: Partial<CpuRegisters>): string[] {
  const names = (Object.keys(values) as RegisterName[]).filter((name) => values[name] !== undefined);
  names.sort((a, b) => rank(a) - rank(b));
  return names.map((name) => registerWrite(name, values[name]!));
}

function rank(name: RegisterName): number {
  const segment = SEGMENTS.indexOf(name as (typeof SEGMENTS)[number]);
  return segment >= 0 ? segment : SEGMENTS.length + REGISTER_NUMBERS[name];
}

function registerWrite(name: RegisterName, value: bigint | number): string {
  const size = FOUR_BYTES.has(name) ? 4 : 8;
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return `P${REGISTER_NUMBERS[name].toString(16)}=${bytes.toString('hex', 0, size)}`;
}
