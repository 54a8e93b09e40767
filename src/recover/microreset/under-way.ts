/** What the steps share that judge hypercalls which are not idempotent. */

import { GENERAL_REGISTERS } from '../../x86/registers.js';
import type { CpuState } from '../../xen/cpus.js';
import type { Domain } from '../../xen/domains.js';
import { hypercallProgress } from '../../xen/hypercalls.js';
import type { XenObject } from '../../xen/object.js';
import { onStack } from '../../xen/stack.js';
import type { StepContext } from '../step.js';

/** `DOMID_SELF` (Xen 4.17, public/xen.h). */
export const DOMID_SELF = 0x7ff0;

/** The frame of a PV guest whose hypercall `number` was begun and not ended; otherwise `undefined`. */
export function hypercallFrame({ xen, facts }: StepContext, cpu: CpuState, number: number): XenObject | undefined {
  if (cpu.current.domain.kind !== 'pv') return undefined;
  // Asked again of the plan so far: the step `complete-frames` may just have completed the frame.
  const progress = hypercallProgress(xen, facts, cpu);
  const underWay = progress.state === 'in-progress' && progress.started && progress.number === number;
  return underWay ? xen.object('cpu_user_regs', cpu.stack.guestFrame) : undefined;
}

/** The domain that a hypercall names. */
export function namedDomain({ situation }: StepContext, cpu: CpuState, id: number): Domain | undefined {
  if (id === DOMID_SELF) return cpu.current.domain;
  return situation.domains.find((domain) => domain.id === id && domain.kind !== 'idle');
}

/** Has the guest find the answer: a call whose number was replaced by its answer is finished, and not issued again. */
export function answer({ plan }: StepContext, frame: XenObject, value: 0n, reason: string): void {
  plan.set(frame, 'rax', value, reason);
  plan.found(reason);
}

/** Every value in the registers and on the stack of an abandoned thread, the guest's frame not among them. */
export function* valuesInHand({ frozen }: StepContext, { registers, stack }: CpuState): Generator<bigint> {
  for (const name of GENERAL_REGISTERS) yield registers[name];
  const from = onStack(stack, registers.rsp) ? registers.rsp & ~7n : stack.base;
  for (let slot = from; slot < stack.guestFrame; slot += 8n) yield frozen.memory.u64(slot);
}
