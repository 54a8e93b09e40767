/** One recovery of a frozen machine, from the stop to the resumption. */
import type { Failure } from '../detect/failure.js';
import { type Mechanism, makePlan } from '../recover/mechanism.js';
import type { PhaseTimes, Recovery } from '../recover/outcome.js';
import type { View } from '../x86/view.js';
import { commit } from './commit.js';
import { restartLost } from './restart.js';
import { settle } from './settle.js';
import type { Target } from './target.js';
import { callOut, maybeAsleep, wakeHalted } from './wake.js';

export interface RecoverOptions {
  readonly mechanism: Mechanism;
  /** Steps left out, by name. */
  readonly without?: ReadonlySet<string>;
  /** Text was compared since the machine stopped, and is what it was: the plan need not do it again. */
  readonly textIsSound?: boolean;
  /** A plan that did not pass its check is committed all the same: what an ablation study asks for. */
  readonly commitUnchecked?: boolean;
  /** Wraps the view that the plan is made from, to keep what was read as a capsule. */
  readonly watch?: (view: View) => View;
  /** Called when the plan is made, before anything is changed. */
  readonly planned?: () => void;
}

/**
 * Plans, checks, commits and resumes. Where the plan does not pass its check the machine stays frozen.
 * @param view the failed machine, captured after `failure` was seen
 * @throws NL_STUB_LOST, NL_STUB_ERROR, NL_QEMU_EXITED: the machine is as the error found it
 */
export async function recover(
  target: Target,
  view: View,
  failure: Failure,
  options: RecoverOptions,
): Promise<Recovery> {
  const { machine, facts } = target;
  const { textIsSound = false } = options;
  const settleStart = performance.now();
  const captureMs = settleStart - failure.detectedAtMs;
  const settled = await settle(target, await restartLost(target, view), failure, textIsSound);
  // A CPU that ran alone may have shut down; whether the others can go on without it the plan's audit says.
  if (machine.lastStop.kind === 'reset') await machine.revive();
  const planStart = performance.now();
  const xen = target.at(options.watch?.(settled) ?? settled);
  // Where a CPU ran in between, it may have damaged more.
  const plan = makePlan(options.mechanism, xen, facts, {
    textIsSound: textIsSound && settled === view,
    now: () => performance.now(),
    ...(options.without === undefined ? {} : { without: options.without }),
  });
  const checkMs = plan.steps.find((step) => step.name === 'audit')?.durationMs ?? 0;
  const commitStart = performance.now();
  const planMs = commitStart - planStart - checkMs;
  const phases = { captureMs, settleMs: planStart - settleStart, planMs, checkMs };
  if (plan.problems.length > 0 && options.commitUnchecked !== true) {
    return outcome({ ...phases, commitMs: 0, resumeMs: 0 }, 'refused', commitStart);
  }
  options.planned?.();
  const asleep = maybeAsleep(xen, failure);
  const placed = await commit(machine, xen.memory, plan);
  const registers = await wakeHalted(machine, xen, asleep, placed);
  await callOut(machine, xen, failure, placed);
  const resumeStart = performance.now();
  await machine.resumeWith(registers);
  const done = performance.now();
  const commitMs = resumeStart - commitStart;
  // Once the machine's threads run, the host may not let us run for a while: QEMU knows when it stopped and went on.
  const stood = await machine.standstill();
  if (stood === undefined) return outcome({ ...phases, commitMs, resumeMs: done - resumeStart }, 'resumed', done);
  const told = Math.max(0, failure.detectedAtMs - stood.stoppedMs);
  const resumeMs = Math.max(0, stood.resumedMs - resumeStart);
  return outcome({ ...phases, captureMs: captureMs + told, commitMs, resumeMs }, 'resumed', stood.resumedMs, told);

  function outcome(times: PhaseTimes, result: Recovery['result'], until: number, told = 0): Recovery {
    const detectedAtMs = failure.detectedAtMs - told;
    return { failure: { ...failure, detectedAtMs }, plan, phases: times, latencyMs: until - detectedAtMs, result };
  }
}
