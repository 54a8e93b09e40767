/** What lies on a CPU's hypervisor stack: the guest's frame at its top, return addresses, nested trap frames. */
import { endsInCall } from '../x86/decode.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { EntryFacts } from './entry.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

export interface CpuStack {
  readonly base: bigint;
  /** One past the stack's last byte. */
  readonly end: bigint;
  /** `struct cpu_info`, at the very top. */
  readonly info: XenObject;
  /** `guest_cpu_user_regs`: where the guest's registers are while its CPU is in Xen. */
  readonly guestFrame: bigint;
}

/** One line of a backtrace. */
export interface BacktraceEntry {
  readonly address: bigint;
  /** `function+offset`. */
  readonly text: string;
}

/** A trap or interrupt that was taken inside Xen: the registers it saved. */
export interface TrapFrame {
  /** `struct cpu_user_regs`, or the registers themselves of a CPU that is about to trap. */
  readonly object: Pick<XenObject, 'u64'>;
  readonly address: bigint;
  readonly rip: bigint;
  readonly rsp: bigint;
  readonly vector: number;
  /** The entry code that saved it. */
  readonly takenBy: string;
}

export function cpuStack(xen: Xen, cpu: number): CpuStack {
  const base = xen.memory.u64(xen.symbol('stack_base') + BigInt(8 * cpu));
  const end = base + BigInt(xen.profile.constant('STACK_SIZE'));
  const guestFrame = end - BigInt(xen.sizeOf('cpu_info'));
  return { base, end, info: xen.object('cpu_info', guestFrame), guestFrame };
}

export const onStack = (stack: CpuStack, address: bigint): boolean => address >= stack.base && address < stack.end;

/**
 * Innermost first. Found by scanning the stack for addresses that follow a call in Xen's text: stale slots can slip
 * in, as in Xen's own backtraces without frame pointers, but none is missed.
 */
export function backtrace(xen: Xen, stack: CpuStack, registers: CpuRegisters, limit = 24): BacktraceEntry[] {
  const entries: BacktraceEntry[] = [{ address: registers.rip, text: xen.profile.describe(registers.rip) }];
  if (!onStack(stack, registers.rsp)) return entries;
  for (let slot = registers.rsp & ~7n; slot < stack.guestFrame && entries.length < limit; slot += 8n) {
    const value = xen.memory.u64(slot);
    if (isReturnAddress(xen, value)) entries.push({ address: value, text: xen.profile.describe(value) });
  }
  return entries;
}

export function isReturnAddress(xen: Xen, value: bigint): boolean {
  return xen.profile.isText(value) && xen.profile.isText(value - 7n) && endsInCall(xen.memory.bytes(value - 7n, 7));
}

/**
 * Trap frames between `from` and the guest's frame, innermost first. A frame lies right under the stack that was interrupted,
 * except when the trap has a stack of its own; either way the search goes on where that stack was. What earlier traps
 * left behind fits neither.
 */
export function trapFrames(xen: Xen, facts: EntryFacts, stack: CpuStack, from: bigint): TrapFrame[] {
  const frames: TrapFrame[] = [];
  const length = BigInt(xen.profile.struct('cpu_user_regs').field('es').offset);
  const primary = stack.end - BigInt(xen.profile.constant('PRIMARY_STACK_SIZE'));
  for (let slot = from & ~7n; slot + 8n + length <= stack.end; ) {
    const address = slot + 8n;
    const takenBy = facts.frameReturns.get(xen.memory.u64(slot));
    slot += 8n;
    if (takenBy === undefined || address === stack.guestFrame) continue;
    const frame = xen.object('cpu_user_regs', address);
    if ((frame.num('cs') & 3) !== 0) continue;
    const rsp = frame.u64('rsp');
    const ownStack = address < primary;
    const fits = ownStack
      ? !onStack(stack, rsp) || rsp > address
      : (rsp & ~(STACK_ALIGNMENT - 1n)) === address + length;
    if (!fits) continue;
    const vector = frame.num('entry_vector') & 0xff;
    frames.push({ object: frame, address, rip: frame.u64('rip'), rsp, vector, takenBy });
    if (!onStack(stack, rsp)) break;
    slot = rsp & ~7n;
  }
  return frames;
}

/** The processor aligns the stack before it pushes a trap frame. */
const STACK_ALIGNMENT = 16n;

/** Code in the CPU's stub page: between a SYSCALL and the switch to Xen's stack it runs on the guest's stack. */
export function isTrampoline(xen: Xen, cpu: number, rip: bigint): boolean {
  const stubs = xen.object('stubs', xen.perCpu('stubs', cpu)).u64('addr');
  return rip >= stubs && rip < stubs + (1n << BigInt(xen.profile.constant('STUB_BUF_SHIFT')));
}
