/**
 * Facts about Xen's entry code that differ between builds, found by decoding the live text once at attach
 * (Xen 4.17: arch/x86/x86_64/entry.S, x86_64/compat/entry.S, hvm/svm/entry.S).
 */
import { NinelivesError } from '../common/errors.js';
import { decode, Mnemonic } from '../x86/decode.js';
import type { PristineImage } from './image.js';
import type { KeptWord } from './kept.js';
import type { Xen } from './xen.js';

export interface SvmEntry {
  /** Where a CPU goes to enter its HVM guest: interrupts are assisted, softirqs handled, then VMRUN. */
  readonly resume: bigint;
  /** Return address of the call of `svm_intr_assist`, which chooses the interrupt to deliver. */
  readonly assistReturn: bigint;
  readonly clgi: bigint;
  readonly vmrun: bigint;
  /** After VMRUN, with the guest's registers saved: `stgi`, then the exit handler. */
  readonly stgi: bigint;
  /** Return address of the call of `svm_vmexit_handler`. */
  readonly handlerReturn: bigint;
  /** First call inside `svm_vmexit_handler`; before it the handler copies registers from the VMCB to the frame. */
  readonly handlerFirstCall: bigint;
}

export interface EntryFacts {
  /** Return addresses of `call pv_hypercall`: in the slot under the guest frame while a hypercall is in progress. */
  readonly hypercallReturns: ReadonlySet<bigint>;
  /**
   * Return addresses of calls that entry code makes into itself before it calls anything else: they overwrite the CPU's
   * return predictor (Xen: DO_OVERWRITE_RSB) and mean that the CPU is still on its way in.
   */
  readonly stuffingReturns: ReadonlySet<bigint>;
  /** Return addresses of calls made while a system call is forwarded from a guest's process to its kernel. */
  readonly forwardReturns: ReadonlySet<bigint>;
  /** Return addresses of calls of `create_bounce_frame`, with what is being delivered to the PV guest. */
  readonly bounceReturns: ReadonlyMap<bigint, 'event' | 'exception' | 'syscall'>;
  /** Return addresses of calls that entry code makes with a register frame right above the slot. */
  readonly frameReturns: ReadonlyMap<bigint, string>;
  /** Return addresses of calls made on the way back to a PV guest that deliver nothing: softirqs are handled, or it is to wait. */
  readonly exitReturns: ReadonlySet<bigint>;
  readonly svm: SvmEntry | undefined;
  /** Text and read-only data as they were at the attach; absent where nobody attached. */
  readonly image?: PristineImage;
  /** Pointers as they were at the attach; absent where nobody attached. */
  readonly kept?: readonly KeptWord[];
}

/** Entry points whose calls have a register frame right above the return address. */
const FRAME_MAKERS = [
  'common_interrupt',
  'page_fault',
  'handle_exception',
  'handle_exception_saved',
  'exception_with_ints_disabled',
  'FATAL_exception_with_ints_disabled',
  'double_fault',
  'nmi',
  'handle_ist_exception',
  'machine_check',
  'entry_PF',
  'entry_DF',
  'entry_NMI',
];

const HYPERCALL_ENTRIES = [
  'lstar_enter',
  'cstar_enter',
  'compat_syscall',
  'entry_int82',
  'sysenter_entry',
  'int80_direct_trap',
];

/** @throws NL_PROFILE_MISMATCH when the entry code does not look as it must. */
export function readEntryFacts(xen: Xen): EntryFacts {
  const hypercall = xen.symbol('pv_hypercall');
  const hypercallReturns = new Set<bigint>();
  for (const name of HYPERCALL_ENTRIES) {
    if (!xen.profile.hasSymbol(name)) continue;
    for (const call of callsIn(xen, name)) if (call.target === hypercall) hypercallReturns.add(call.next);
  }
  if (hypercallReturns.size === 0) {
    throw new NinelivesError('NL_PROFILE_MISMATCH', 'the entry code has no call of pv_hypercall');
  }
  const stuffingReturns = new Set<bigint>();
  for (const name of [...HYPERCALL_ENTRIES, 'svm_asm_do_resume']) {
    if (!xen.profile.hasSymbol(name)) continue;
    const start = xen.symbol(name);
    const end = start + BigInt(functionBytes(xen, name).length);
    for (const { target, next } of callsIn(xen, name)) {
      if (target !== undefined && target >= start && target < end) stuffingReturns.add(next);
    }
  }
  const forwardReturns = new Set([...callsIn(xen, 'switch_to_kernel')].map((call) => call.next));
  const frameReturns = new Map<bigint, string>();
  for (const name of FRAME_MAKERS) {
    if (!xen.profile.hasSymbol(name)) continue;
    for (const call of callsIn(xen, name)) frameReturns.set(call.next, name);
  }
  return {
    hypercallReturns,
    stuffingReturns,
    forwardReturns,
    bounceReturns: bounceReturns(xen),
    frameReturns,
    exitReturns: exitReturns(xen),
    svm: xen.profile.hasSymbol('svm_asm_do_resume') ? svmEntry(xen) : undefined,
  };
}

/** Labels of the exit path that deliver something, in the order of the text (x86_64/entry.S). */
const DELIVERIES = [
  ['switch_to_kernel', 'syscall'],
  ['test_guest_events', 'event'],
  ['process_softirqs', 'exception'],
  ['process_mce', 'exception'],
  ['process_nmi', 'exception'],
  ['process_trap', 'exception'],
  ['int80_direct_trap', 'exception'],
] as const;

function bounceReturns(xen: Xen): Map<bigint, 'event' | 'exception' | 'syscall'> {
  const bounce = xen.symbol('create_bounce_frame');
  const returns = new Map<bigint, 'event' | 'exception' | 'syscall'>();
  for (const [name, kind] of DELIVERIES) {
    if (!xen.profile.hasSymbol(name)) continue;
    for (const call of callsIn(xen, name)) if (call.target === bounce) returns.set(call.next, kind);
  }
  return returns;
}

/** Labels of the exit path that make a call with all of the guest's registers in the frame. */
const WAYS_OUT = ['process_softirqs', 'continue_pv_domain'];

function exitReturns(xen: Xen): Set<bigint> {
  const bounce = xen.symbol('create_bounce_frame');
  const names = WAYS_OUT.filter((name) => xen.profile.hasSymbol(name));
  const calls = names.flatMap((name) => [...callsIn(xen, name)]);
  return new Set(calls.filter(({ target }) => target !== bounce).map(({ next }) => next));
}

/** Bytes of a function from its symbol to the next one. */
export function functionBytes(xen: Xen, name: string): Uint8Array {
  const start = xen.symbol(name);
  const next = xen.profile.symbols.after(start) ?? start + BigInt(LONGEST_FUNCTION);
  return xen.memory.bytes(start, Math.min(Number(next - start), LONGEST_FUNCTION));
}

/** More than any entry function has, in bytes. */
const LONGEST_FUNCTION = 0x4000;

function* callsIn(xen: Xen, name: string): Generator<{ target: bigint | undefined; next: bigint }> {
  for (const instruction of decode(functionBytes(xen, name), xen.symbol(name))) {
    if (instruction.flow === 'call') yield { target: instruction.target, next: instruction.next };
  }
}

function svmEntry(xen: Xen): SvmEntry {
  const resume = xen.symbol('svm_asm_do_resume');
  const handler = xen.symbol('svm_vmexit_handler');
  const assist = xen.symbol('svm_intr_assist');
  let assistReturn: bigint | undefined;
  let clgi: bigint | undefined;
  let vmrun: bigint | undefined;
  let stgi: bigint | undefined;
  let handlerReturn: bigint | undefined;
  // The label svm_stgi_label splits the function in two symbols; read past it.
  const code = xen.memory.bytes(resume, 0x400);
  for (const instruction of decode(code, resume)) {
    if (instruction.mnemonic === Mnemonic.Clgi) clgi ??= instruction.address;
    if (instruction.mnemonic === Mnemonic.Vmrun) vmrun ??= instruction.address;
    if (instruction.mnemonic === Mnemonic.Stgi) stgi ??= instruction.address;
    if (instruction.target === assist) assistReturn ??= instruction.next;
    if (instruction.target === handler) handlerReturn ??= instruction.next;
    if (handlerReturn !== undefined && assistReturn !== undefined) break;
  }
  let handlerFirstCall: bigint | undefined;
  for (const instruction of decode(xen.memory.bytes(handler, 0x800), handler)) {
    if (instruction.flow !== 'call') continue;
    handlerFirstCall = instruction.address;
    break;
  }
  if (assistReturn && clgi && vmrun && stgi && handlerReturn && handlerFirstCall) {
    return { resume, assistReturn, clgi, vmrun, stgi, handlerReturn, handlerFirstCall };
  }
  throw new NinelivesError('NL_PROFILE_MISMATCH', 'svm_asm_do_resume does not look as it must');
}
