/** What a whole recovery came to: everything the timeline, the journal and the campaign logs show. */
import type { Failure } from '../detect/failure.js';
import type { Plan } from './plan.js';

/** Milliseconds of host time each phase took, in the order in which they happen. */
export interface PhaseTimes {
  /** Word of the stop on its way to us; registers and interrupt controllers read. */
  readonly captureMs: number;
  /** CPUs inside entry and exit sequences run to their end. */
  readonly settleMs: number;
  readonly planMs: number;
  readonly checkMs: number;
  /** Memory written. */
  readonly commitMs: number;
  /** Registers written, with the resumption in one message, and QEMU at work on it. */
  readonly resumeMs: number;
}

export interface Recovery {
  readonly failure: Failure;
  readonly plan: Plan;
  readonly phases: PhaseTimes;
  /** From the stop of the machine to its resumption, by QEMU's clock where it tells. */
  readonly latencyMs: number;
  /** Path of the capsule, when one was kept. */
  readonly capsule?: string;
  /** `resumed`: the plan was committed. `refused`: it did not pass its check; the machine is still frozen. */
  readonly result: 'resumed' | 'refused';
}
