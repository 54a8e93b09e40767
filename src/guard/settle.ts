/**
 * Settle: a CPU that did not fail and stands inside the delivery of something to its PV guest is run to the end of it, all
 * others standing still. It takes no lock and waits for nobody, so it ends; afterwards there is one thing less to repair.
 * Nothing else runs between the freeze and the resumption. Where Xen's code is damaged nobody executes it before it is repaired.
 */
import type { Failure } from '../detect/failure.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { View } from '../x86/view.js';
import { damagedAt } from '../xen/image.js';
import { type CpuStack, cpuStack, onStack } from '../xen/stack.js';
import type { Xen } from '../xen/xen.js';
import type { Target } from './target.js';

/** A delivery that takes longer was interrupted, in milliseconds of host time; the plan deals with it as it is then. */
const LIMIT_MS = 20;

/**
 * @param textIsSound whether text was compared since the machine stopped, and is what it was
 * @returns the view to plan from: the given one when no CPU had to run
 */
export async function settle(target: Target, view: View, failure: Failure, textIsSound: boolean): Promise<View> {
  const xen = target.at(view);
  let ran = false;
  let isSound = textIsSound;
  for (let cpu = 0; cpu < view.cpuCount; cpu++) {
    if (cpu === failure.cpu) continue;
    const until = endOfDelivery(target, xen, cpuStack(xen, cpu), view.registers(cpu));
    if (until === undefined) continue;
    isSound ||= target.facts.image === undefined || damagedAt(xen, target.facts.image) === undefined;
    if (!isSound) break;
    await target.machine.runOne(cpu, { until, timeoutMs: LIMIT_MS });
    ran = true;
  }
  return ran ? target.machine.capture() : view;
}

/** Where `create_bounce_frame` returns to, when the CPU is in it or in what it calls. */
function endOfDelivery(
  { facts }: Target,
  xen: Xen,
  stack: CpuStack,
  { rsp, cs }: Readonly<CpuRegisters>,
): bigint | undefined {
  if ((cs & 3) !== 0 || !onStack(stack, rsp) || rsp > stack.guestFrame - 8n) return undefined;
  const slot = xen.memory.u64(stack.guestFrame - 8n);
  return facts.bounceReturns.has(slot) ? slot : undefined;
}
