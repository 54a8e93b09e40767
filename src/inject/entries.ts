/**
 * The places through which a CPU comes into Xen, where it can be caught with breakpoints: there are a few of them, since all
 * interrupts and exceptions come together right behind their own first instructions (Xen 4.17: x86_64/entry.S, hvm/svm/entry.S).
 */
import { decode } from '../x86/decode.js';
import type { EntryFacts } from '../xen/entry.js';
import type { Xen } from '../xen/xen.js';
import { knownOf } from './names.js';

/** With the frame that the CPU pushed on the stack: error code and vector, rip, cs, rflags, rsp. */
const WITH_FRAME = ['common_interrupt', 'handle_exception', 'handle_ist_exception'];
/** Of system calls, which come from guests only; the few instructions of a CPU's own trampoline before them are no text of Xen's. */
const OF_CALLS = ['lstar_enter', 'cstar_enter', 'sysenter_entry', 'int80_direct_trap'];
const VMRUN_BYTES = 3n;

export interface Entries {
  readonly all: readonly bigint[];
  readonly withFrame: ReadonlySet<bigint>;
}

export function entriesOf(xen: Xen, facts: EntryFacts): Entries {
  const withFrame = knownOf(xen, WITH_FRAME);
  const afterGuest = facts.svm === undefined ? [] : [facts.svm.vmrun + VMRUN_BYTES];
  return { all: [...withFrame, ...knownOf(xen, OF_CALLS), ...afterGuest], withFrame: new Set(withFrame) };
}

/** Where the instructions before an entry come from and lead: an interrupt's or exception's own first ones. */
const LONGEST_PRELUDE = 8;

/** Addresses of the instructions that the CPU executed between taking `vector` and standing at `entry`. */
export function preludeOf(xen: Xen, place: { cpu: number; vector: number; entry: bigint }): bigint[] {
  const tables = xen.symbol('idt_tables');
  const table = xen.memory.u64(tables + BigInt(8 * place.cpu));
  const gate = table + BigInt(16 * place.vector);
  const lower = BigInt(xen.memory.u16(gate)) | (BigInt(xen.memory.u16(gate + 6n)) << 16n);
  let rip = lower | (BigInt(xen.memory.u32(gate + 8n)) << 32n);
  const passed: bigint[] = [];
  while (rip !== place.entry) {
    if (passed.length === LONGEST_PRELUDE || !xen.memory.isMapped(rip)) return [];
    const [first] = firstOf(xen, rip);
    if (first === undefined) return [];
    passed.push(rip);
    rip = first;
  }
  return passed;
}

/** Where the instruction at `rip` leads; none where that is not certain. */
function firstOf(xen: Xen, rip: bigint): bigint[] {
  for (const { flow, next, target } of decode(xen.memory.bytes(rip, 15), rip)) {
    if (flow === 'next') return [next];
    return flow === 'jump' && target !== undefined ? [target] : [];
  }
  return [];
}
