/**
 * Where in Xen's text a failure shows itself first, and what a stop there means. Xen prints registers and stack over
 * the serial line before it panics, which takes far longer than the whole recovery: the places chosen lie before that.
 *
 * They are also chosen for the pages they lie on. QEMU executes a page with a breakpoint one instruction at a time, so a
 * breakpoint on a page with hot code would slow every guest (qemu-notes 5.3; the `bench/guard-overhead` benchmark).
 */
import { ifReadable } from '../xen/damage.js';
import { backtrace, cpuStack } from '../xen/stack.js';
import type { Xen } from '../xen/xen.js';
import type { Failure, FailureKind } from './failure.js';

const POINTS: readonly { readonly symbol: string; readonly kind: FailureKind; readonly what: string }[] = [
  { symbol: 'show_execution_state', kind: 'fatal-trap', what: 'a trap in Xen that it cannot handle' },
  { symbol: 'fatal_trap', kind: 'fatal-trap', what: 'a trap in Xen that it cannot handle' },
  { symbol: 'do_double_fault', kind: 'double-fault', what: 'a double fault' },
  { symbol: 'panic', kind: 'panic', what: 'Xen panics' },
  { symbol: 'machine_halt', kind: 'halt', what: 'Xen halts the machine' },
];

/** Addresses that a guard sets breakpoints on. */
export const failurePoints = (xen: Xen): bigint[] => POINTS.map((point) => xen.symbol(point.symbol));

/**
 * What a stop at a failure point means. `undefined` when it is no failure: a WARN, which prints and goes on; a dump that
 * was asked for by key; dom0 that switches the machine off.
 *
 * Xen prints the registers of a domain that it is about to crash (Xen 4.17, common/domain.c `__domain_crash`), so that the domain still
 * lives at that stop. Whose fault it is cannot be told here (`second-chances.ts`).
 */
export function classifyStop(xen: Xen, cpu: number, detectedAtMs: number): Failure | undefined {
  const registers = xen.view.registers(cpu);
  const point = POINTS.find(({ symbol }) => xen.symbol(symbol) === registers.rip);
  if (point === undefined) return undefined;
  const caller = returnsTo(xen, registers.rsp);
  if (point.symbol === 'machine_halt') return haltOf(xen, cpu, detectedAtMs);
  if (point.symbol !== 'show_execution_state') {
    const at =
      point.symbol === 'fatal_trap' || point.symbol === 'do_double_fault' ? trapAt(xen, registers.rdi) : undefined;
    return { kind: point.kind, cpu, summary: point.what, detectedAtMs, ...(at === undefined ? {} : { at }) };
  }
  if (caller === '__domain_crash') {
    const domain = currentDomain(xen, cpu);
    const whom = domain === undefined ? 'a domain' : `d${domain}`;
    const id = domain === undefined ? {} : { domain };
    return { kind: 'domain-crash', cpu, ...id, summary: `Xen crashes ${whom}`, detectedAtMs };
  }
  if (caller?.startsWith('do_') === false) return undefined;
  const trap = trapOf(xen, registers.rdi);
  // A CPU that went astray comes here by accident too, with whatever is in its registers.
  if (trap === undefined || caller === undefined) return { kind: 'fatal-trap', cpu, summary: point.what, detectedAtMs };
  const { rip, vector } = trap;
  const at = xen.profile.describe(rip);
  if (caller !== 'do_invalid_op') {
    return { kind: 'fatal-trap', cpu, at, summary: `${vectorName(vector)} in Xen at ${at}`, detectedAtMs };
  }
  if (isWarning(xen, rip)) return undefined;
  return { kind: 'bug', cpu, at, summary: `BUG or invalid instruction at ${at}`, detectedAtMs };
}

/** What a domain does to be shut down: a request, a watchdog that it set and did not wind up, an HVM guest's triple fault. */
const ASKED_FOR = /^(do_sched_op|domain_watchdog_timeout|hvm_triple_fault)\+/;
const DOM0 = 0;

/** dom0 that switches itself off, or panics, has Xen halt the machine: then Xen is not at fault. */
function haltOf(xen: Xen, cpu: number, detectedAtMs: number): Failure | undefined {
  const entries = ifReadable(() => backtrace(xen, cpuStack(xen, cpu), xen.view.registers(cpu))) ?? [];
  if (!entries.some(({ text }) => /^(hwdom|domain)_shutdown\+/.test(text))) {
    return { kind: 'halt', cpu, summary: 'Xen halts the machine', detectedAtMs };
  }
  if (entries.some(({ text }) => ASKED_FOR.test(text))) return undefined;
  const summary = 'Xen halts the machine for dom0, which did not ask for it';
  return { kind: 'halt', cpu, domain: DOM0, summary, detectedAtMs };
}

function currentDomain(xen: Xen, cpu: number): number | undefined {
  return ifReadable(() => {
    const vcpu = xen.object('vcpu', cpuStack(xen, cpu).info.u64('current_vcpu'));
    return xen.object('domain', vcpu.u64('domain')).num('domain_id');
  });
}

/** The function that a stack pointer at a return address leads back to: '' where it is none, `undefined` where nothing can be read. */
function returnsTo(xen: Xen, rsp: bigint): string | undefined {
  return ifReadable(() => xen.profile.resolve(xen.memory.u64(rsp))?.name ?? '');
}

/** The trap whose frame is there; `undefined` where none can be read. */
function trapOf(xen: Xen, address: bigint): { rip: bigint; vector: number } | undefined {
  return ifReadable(() => {
    const frame = xen.object('cpu_user_regs', address);
    return { rip: frame.u64('rip'), vector: frame.num('entry_vector') };
  });
}

function trapAt(xen: Xen, frame: bigint): string | undefined {
  const trap = trapOf(xen, frame);
  return trap === undefined ? undefined : xen.profile.describe(trap.rip);
}

const VECTORS: Readonly<Record<number, string>> = {
  0: 'divide error',
  6: 'invalid opcode',
  8: 'double fault',
  12: 'stack fault',
  13: 'general protection fault',
  14: 'page fault',
};

const vectorName = (vector: number): string => VECTORS[vector & 0xff] ?? `trap ${vector & 0xff}`;

/** Whether the UD2 at `rip` belongs to a WARN: Xen keeps the places of its WARNs in the second of its bug tables. */
function isWarning(xen: Xen, rip: bigint): boolean {
  const entrySize = 8n;
  const end = xen.symbol('__stop_bug_frames_1');
  for (let entry = xen.symbol('__stop_bug_frames_0'); entry < end; entry += entrySize) {
    // Distance from the entry to the UD2 in the lower 24 bits, signed.
    const displacement = (xen.memory.u32(entry) << 8) >> 8;
    if (entry + BigInt(displacement) === rip) return true;
  }
  return false;
}
