/** What a guard told of during a trial, and whether the machine still goes on. */
import { isNinelivesError } from '../common/errors.js';
import type { Failure } from '../detect/failure.js';
import type { GuardEvent } from '../guard/guard.js';
import type { Recovery } from '../recover/outcome.js';
import type { Sample } from '../workload/verdict.js';

/** Errors that say nothing about the target: the way to it is gone, or somebody wants to stop. */
const OURS = /^NL_(QMP|STUB|QEMU|RAM|NO_SPACE|TIMEOUT|INTERRUPTED)/;

export class Sightings {
  /** Each failure that was seen, in order; the first is the injected one. */
  readonly failures: Failure[] = [];
  readonly recoveries: Recovery[] = [];
  /** Recoveries after which the machine went on. */
  resumedCount = 0;
  /** The VMs at the moment of the last resumption. */
  resumed: Sample | undefined;
  /** Why the machine does not go on. */
  lost: string | undefined;
  readonly #sample: () => Sample;

  constructor(sample: () => Sample) {
    this.#sample = sample;
  }

  /** Whether a failure was seen and its recovery is not done yet. */
  get recovering(): boolean {
    return this.failures.length > this.resumedCount && this.lost === undefined;
  }

  note(event: GuardEvent): void {
    if (event.kind === 'failure') this.failures.push(event.failure);
    if (event.kind === 'recovered') {
      this.recoveries.push(event.recovery);
      this.resumedCount++;
      this.resumed = this.#sample();
    }
    if (event.kind === 'not-recovered') {
      if (event.recovery !== undefined) this.recoveries.push(event.recovery);
      this.lost = event.why;
    }
  }

  /**
   * What a guard ended with. A machine that stopped for good was told as a failure already. State so damaged that a recovery
   * cannot be planned of it is the target's failure; a lost link is ours.
   * @throws `error` when it is ours
   */
  noteError(error: unknown): void {
    if (this.lost !== undefined && isNinelivesError(error, 'NL_QEMU_EXITED')) return;
    const isOurs = isNinelivesError(error) && OURS.test(error.code);
    if (isOurs || this.failures.length === 0) throw error;
    this.lost = `the recovery could not be planned: ${error instanceof Error ? error.message : String(error)}`;
  }
}
