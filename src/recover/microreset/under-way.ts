/** What the steps share that judge hypercalls which are not idempotent. */
import { GENERAL_REGISTERS } from '../../x86/registers.js';
import type { CpuState } from '../../xen/cpus.js';
import type { Domain } from '../../xen/domains.js';
import { guestBytes, guestInDirectMap } from '../../xen/guest-memory.js';
import { hypercallProgress } from '../../xen/hypercalls.js';
import type { XenObject } from '../../xen/object.js';
import { onStack } from '../../xen/stack.js';
import { note, type StepContext } from '../step.js';

/** `DOMID_SELF` (Xen 4.17, public/xen.h). */
export const DOMID_SELF = 0x7ff0;
const MULTICALL = 13;
/** `struct multicall_entry`: op, result, six arguments. */
const ELEMENT = { size: 64n, result: 8n, arguments: 16 } as const;
const ARGUMENTS = ['rdi', 'rsi', 'rdx'] as const;

/** A hypercall of a PV guest that was begun and not ended, by itself or as an element of a multicall. */
export interface UnderWay {
  readonly arguments: readonly bigint[];
  /** The retry has this first argument. */
  setFirst(value: bigint, reason: string): void;
  /** Gives the guest an answer of 0: the call is not repeated. */
  finish(reason: string): void;
}

/** The hypercall `number` of a CPU; `undefined` where it is at something else. Asks the plan made so far. */
export function underWay(context: StepContext, cpu: CpuState, number: number): UnderWay | undefined {
  const { xen, facts } = context;
  if (cpu.current.domain.kind !== 'pv') return undefined;
  const progress = hypercallProgress(xen, facts, cpu);
  if (progress.state !== 'in-progress' || !progress.started) return undefined;
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  if (progress.number === number) return direct(context, cpu, frame);
  return progress.number === MULTICALL ? element(context, cpu, frame, number) : undefined;
}

function direct({ plan, ...context }: StepContext, cpu: CpuState, frame: XenObject): UnderWay {
  return {
    arguments: ARGUMENTS.map((name) => frame.u64(name)),
    setFirst: (value, reason) => void plan.set(frame, 'rdi', value, reason),
    finish(reason) {
      // A call whose number was replaced by its answer has ended, for `retry-hypercalls` as for Xen.
      plan.set(frame, 'rax', 0n, reason);
      plan.found(reason);
      note({ plan, ...context }, cpu.cpu, 'the hypercall is finished');
    },
  };
}

/**
 * libxc makes its memory operations so, for their answers to be wide enough. The step `batch-progress` has the retry begin with the
 * element under way, of which Xen has a copy.
 */
function element(context: StepContext, cpu: CpuState, frame: XenObject, number: number): UnderWay | undefined {
  const { plan, xen, frozen } = context;
  const vcpu = cpu.current.object;
  if (frozen.memory.u8(vcpu.at('mc_state.flags')) === 0) return undefined;
  const address = frame.u64('rdi');
  const at = guestInDirectMap(xen, vcpu, address);
  const bytes = guestBytes(xen, vcpu, address, Number(ELEMENT.size));
  if (at === undefined || bytes === undefined || frame.u64('rsi') === 0n) return undefined;
  const copy = frozen.memory.bytes(vcpu.at('mc_state.call'), Number(ELEMENT.size));
  if (!bytes.every((byte, n) => byte === copy[n] || (n >= 8 && n < ELEMENT.arguments))) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getBigUint64(0, true) !== BigInt(number)) return undefined;
  return {
    arguments: ARGUMENTS.map((_, n) => view.getBigUint64(ELEMENT.arguments + 8 * n, true)),
    setFirst: (value, reason) => void plan.write(at + BigInt(ELEMENT.arguments), 8, value, reason),
    finish(reason) {
      plan.write(at + ELEMENT.result, 8, 0n, reason);
      plan.set(frame, 'rdi', address + ELEMENT.size, reason);
      plan.set(frame, 'rsi', frame.u64('rsi') - 1n, reason);
      plan.found(reason);
      note(context, cpu.cpu, 'an element of its multicall is finished');
    },
  };
}

/** The domain that a hypercall names. */
export function namedDomain({ situation }: StepContext, cpu: CpuState, id: number): Domain | undefined {
  if (id === DOMID_SELF) return cpu.current.domain;
  return situation.domains.find((domain) => domain.id === id && domain.kind !== 'idle');
}

/** Every value in the registers and on the stack of an abandoned thread, the guest's frame not among them. */
export function* valuesInHand({ frozen }: StepContext, { registers, stack }: CpuState): Generator<bigint> {
  for (const name of GENERAL_REGISTERS) yield registers[name];
  const from = onStack(stack, registers.rsp) ? registers.rsp & ~7n : stack.base;
  for (let slot = from; slot < stack.guestFrame; slot += 8n) yield frozen.memory.u64(slot);
}
