/**
 * Entry code calls a function with the guest's frame right above the return address, and so do `continue_running` and its like, which have
 * moved the stack pointer up to it. Where damaged code leaves out what the called function takes off the stack pointer, its end puts too
 * much back: it pops its own return address and then the guest's registers into others, and returns to one of them. The failure's frame lies over their places then, but
 * it has their values: the function's pops tell which register has whose.
 */
import { decode, Mnemonic, Register } from '../x86/decode.js';
import { RESTORE_ORDER, type SavedRegister } from './saved-registers.js';
import { type CpuStack, isReturnAddress, onStack, type TrapFrame } from './stack.js';
import type { Xen } from './xen.js';

/** What a function of Xen's keeps for its caller, and pops at its end (System V ABI). */
const POPPED: ReadonlyMap<number, SavedRegister> = new Map([
  [Register.RBX, 'rbx'],
  [Register.RBP, 'rbp'],
  [Register.R12, 'r12'],
  [Register.R13, 'r13'],
  [Register.R14, 'r14'],
  [Register.R15, 'r15'],
]);
const RETURNING = '__x86_return_thunk';
const CALL_BYTES = 5n;
/** More than the functions have that entry code calls, in bytes. */
const LONGEST_FUNCTION = 0x4000n;
/** The processor aligns the stack before it pushes a trap's frame, which may leave one word between. */
const STACK_ALIGNMENT = 16n;

/** Registers of the guest's that were popped, by the trap that followed; `undefined` where that is not what happened. */
export function poppedFrame(
  xen: Xen,
  stack: CpuStack,
  { object: trap, rip, rsp }: Pick<TrapFrame, 'object' | 'rip' | 'rsp'>,
): ReadonlyMap<SavedRegister, bigint> | undefined {
  const words = Number((rsp - stack.guestFrame) / 8n);
  if (!onStack(stack, rsp) || rsp % 8n !== 0n || words < 1 || words > RESTORE_ORDER.length) return undefined;
  const isKept = rsp % STACK_ALIGNMENT !== 0n;
  if (xen.profile.isText(rip) || (isKept && xen.memory.u64(rsp - 8n) !== rip)) return undefined;
  for (const holder of POPPED.values()) {
    const returns = trap.u64(holder);
    // The word below the guest's frame, with which the pops of its words began.
    const popped = isReturnAddress(xen, returns) ? popsOf(xen, returns, holder, words - 1) : undefined;
    if (popped === undefined) continue;
    const values = [...popped.map((name) => trap.u64(name)), rip];
    return new Map(values.map((value, n) => [RESTORE_ORDER[n]!, value]));
  }
  return undefined;
}

/** What the function that returns there pops after `holder` and before it returns: `count` registers. */
function popsOf(xen: Xen, returns: bigint, holder: SavedRegister, count: number): SavedRegister[] | undefined {
  const [call] = decode(xen.memory.bytes(returns - CALL_BYTES, Number(CALL_BYTES)), returns - CALL_BYTES);
  if (call?.flow !== 'call' || call.target === undefined || !xen.profile.isText(call.target)) return undefined;
  for (const pops of endings(xen, call.target)) {
    const at = pops.indexOf(holder);
    if (at >= 0 && pops.length - at - 1 === count) return pops.slice(at + 1);
  }
  return undefined;
}

/** The pops right before each return of a function. */
function* endings(xen: Xen, start: bigint): Generator<SavedRegister[]> {
  const limit = start + LONGEST_FUNCTION;
  const after = xen.profile.symbols.after(start) ?? limit;
  const end = after < limit ? after : limit;
  const thunk = xen.profile.hasSymbol(RETURNING) ? xen.symbol(RETURNING) : undefined;
  // A capsule has the text that was read when it was written.
  if (!xen.memory.isMapped(start) || !xen.memory.isMapped(end - 1n)) return;
  let pops: SavedRegister[] = [];
  for (const { mnemonic, flow, target, raw } of decode(xen.memory.bytes(start, Number(end - start)), start)) {
    const register = mnemonic === Mnemonic.Pop ? POPPED.get(raw.op0Register) : undefined;
    const isReturn = flow === 'return' || (flow === 'jump' && target !== undefined && target === thunk);
    if (isReturn && pops.length > 0) yield pops;
    pops = register === undefined ? [] : [...pops, register];
  }
}
