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
  /** From each failure to the resumption of the machine, by performance.now(). */
  readonly outages: { readonly startMs: number; endMs?: number }[] = [];
  /** The VMs at the moment of the last resumption. */
  resumed: Sample | undefined;
  /** Why the machine does not go on. */
  lost: string | undefined;
  readonly #sample: () => Sample;
  #brokenAtMs: number | undefined;

  constructor(sample: () => Sample) {
    this.#sample = sample;
  }

  /** Whether a failure was seen and its recovery is not done yet. */
  get recovering(): boolean {
    return this.failures.length > this.resumedCount && this.lost === undefined;
  }

  /** The machine runs on, broken, from this moment of performance.now(). */
  brokenAt(ms: number): void {
    this.#brokenAtMs = ms;
  }

  note(event: GuardEvent): void {
    if (event.kind === 'failure') {
      // The first one is down from the moment it was broken, not from when that was seen.
      const startMs = this.failures.length === 0 ? this.#brokenAtMs : event.failure.detectedAtMs;
      this.failures.push(event.failure);
      this.outages.push({ startMs: startMs ?? event.failure.detectedAtMs });
    }
    if (event.kind === 'recovered') {
      this.recoveries.push(event.recovery);
      this.resumedCount++;
      const outage = this.outages.at(-1);
      if (outage !== undefined) outage.endMs = event.recovery.failure.detectedAtMs + event.recovery.latencyMs;
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
