/** Parsers for the text that QEMU's human monitor prints. Pure; formats are those of QEMU 7.2 and checked up to 10. */
import type { IoApicPin, LapicState } from '../x86/view.js';

/** A run of guest physical addresses that one RAM block backs without a break. Bytes; `end` is exclusive. */
export interface RamSegment {
  readonly start: number;
  readonly end: number;
  /** Where it begins in the RAM block (for a file backend: the file). */
  readonly offset: number;
}

/** `info lapic`: vectors in service and requested. The text does not carry the APIC id, so the caller gives it. */
export function parseLapic(text: string, id: number): LapicState {
  return { id, inService: vectors(text, 'ISR'), requested: vectors(text, 'IRR') };
}

function vectors(text: string, register: string): number[] {
  const line = new RegExp(`^${register}\\s+(.*)$`, 'm').exec(text)?.[1] ?? '';
  return [...line.matchAll(/\b(\d+)(?:\(level\))?/g)].map((match) => Number(match[1]));
}

/** The I/O APIC part of `info pic`. Empty when the machine has none that prints itself. */
export function parseIoApic(text: string): IoApicPin[] {
  const remote = new Set(
    (/^\s*Remote IRR\s+(.*)$/m.exec(text)?.[1] ?? '')
      .split(/\s+/)
      .filter((word) => /^\d+$/.test(word))
      .map(Number),
  );
  const pins: IoApicPin[] = [];
  for (const match of text.matchAll(/^\s*pin (\d+)\s+0x[0-9a-f]+ dest=\S+\s+vec=(\d+)\s+(.*)$/gm)) {
    const pin = Number(match[1]);
    const rest = match[3] ?? '';
    pins.push({
      pin,
      vector: Number(match[2]),
      masked: /\bmasked\b/.test(rest),
      level: /\blevel\b/.test(rest),
      remoteIrr: remote.has(pin),
    });
  }
  return pins;
}

/**
 * The RAM of one block from `info mtree -f`, ascending and merged.
 *
 * Two things are smoothed over. Firmware shadow areas below 1 MiB change between `ram` and `rom`, and the VGA window hides
 * the RAM under it; the block backs all of them, so the first segment is taken as whole. The hole below 4 GiB stays.
 * @param block name of the RAM block, as in the output: the id of the memory backend.
 */
export function parseRamMap(text: string, block: string): RamSegment[] {
  const view = text.split(/^FlatView #\d+$/m).find((part) => /^ AS "memory", root: system$/m.test(part));
  if (view === undefined) return [];
  const segments: { start: number; end: number; offset: number }[] = [];
  for (const match of view.matchAll(
    /^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom|romd)\): (\S+)(?: @([0-9a-f]+))?/gm,
  )) {
    if (match[3] !== block) continue;
    const start = Number(`0x${match[1]}`);
    const end = Number(`0x${match[2]}`) + 1;
    const offset = match[4] === undefined ? 0 : Number(`0x${match[4]}`);
    const last = segments.at(-1);
    if (last && last.start - last.offset === start - offset && start - last.end <= 0x60000) last.end = end;
    else segments.push({ start, end, offset });
  }
  return segments;
}

/** What only `info registers` tells about a CPU. Bases are linear addresses, limits in bytes. */
export interface HiddenRegisters {
  /** The CPU waits in `hlt`. */
  readonly halted: boolean;
  readonly gdt: { readonly base: bigint; readonly limit: number };
  readonly idt: { readonly base: bigint; readonly limit: number };
  readonly tr: { readonly selector: number; readonly base: bigint; readonly limit: number };
  /** Current privilege level, 0 to 3. */
  readonly cpl: number;
}

/** Reads `info registers` of one CPU; `undefined` when it is not that. */
export function parseHiddenRegisters(text: string): HiddenRegisters | undefined {
  const table = (name: string): { base: bigint; limit: number } | undefined => {
    const match = new RegExp(`^${name}=\\s+([0-9a-f]+) ([0-9a-f]+)`, 'm').exec(text);
    return match ? { base: BigInt(`0x${match[1]}`), limit: Number.parseInt(match[2]!, 16) } : undefined;
  };
  const gdt = table('GDT');
  const idt = table('IDT');
  const tr = /^TR =([0-9a-f]{4}) ([0-9a-f]+) ([0-9a-f]+)/m.exec(text);
  const flags = /CPL=(\d).*HLT=(\d)/.exec(text);
  if (!gdt || !idt || !tr || !flags) return undefined;
  return {
    halted: flags[2] === '1',
    cpl: Number(flags[1]),
    gdt,
    idt,
    tr: {
      selector: Number.parseInt(tr[1]!, 16),
      base: BigInt(`0x${tr[2]}`),
      limit: Number.parseInt(tr[3]!, 16),
    },
  };
}

/** The host address in the answer to `gpa2hva`; `undefined` when that guest address is not RAM. */
export function parseHostAddress(text: string): bigint | undefined {
  const match = /is 0x([0-9a-f]+)/.exec(text);
  return match ? BigInt(`0x${match[1]}`) : undefined;
}
