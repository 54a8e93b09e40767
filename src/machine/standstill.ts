/**
 * How long a machine stood still, by the clock of whoever stopped and resumed it: QEMU stamps its STOP and RESUME events. The way
 * of a message to us is not in it, nor is the time for which the host keeps us from running once the machine's own threads
 * run again. Runs of a single CPU stop and resume the machine as well, as QEMU sees it; they count as standing still.
 */
import type { QmpEvent } from './qmp.js';

/** Both moments as performance.now() gives them. */
export interface StandstillTimes {
  readonly stoppedMs: number;
  readonly resumedMs: number;
}

/** Events come by another way than the stub's answers: this long we wait for one, in milliseconds. */
const EVENT_LIMIT_MS = 200;
/** A stamp that differs by more from when its event came is not to be believed: somebody has set the host's clock. */
const BELIEVABLE_MS = 2000;

export class Standstill {
  /** Resumptions that the stub was asked for, and RESUME events that came. */
  #asked = 0;
  #seen = 0;
  /** Which of them is the last that let the whole machine run. */
  #whole = 0;
  #stoppedMs: number | undefined;
  #last: StandstillTimes | undefined;
  #waiting: (() => void)[] = [];

  /** The machine, or one CPU of it, was told to run. */
  told(): void {
    this.#asked++;
  }

  /** What it was told last was to run as a whole. */
  toldWhole(): void {
    if (this.#asked === this.#seen) return;
    this.#whole = this.#asked;
    this.#last = undefined;
  }

  note({ name, happenedMs, atMs }: QmpEvent): void {
    if (name !== 'STOP' && name !== 'RESUME') return;
    const moment = happenedMs - performance.timeOrigin;
    const known = Math.abs(atMs - moment) < BELIEVABLE_MS ? moment : Number.NaN;
    if (name === 'STOP') {
      this.#stoppedMs ??= known;
      return;
    }
    if (++this.#seen !== this.#whole) return;
    const stoppedMs = this.#stoppedMs ?? Number.NaN;
    if (known >= stoppedMs) this.#last = { stoppedMs, resumedMs: known };
    this.#stoppedMs = undefined;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** The last one that has ended, or is about to. `undefined` when QEMU does not tell in time, or tells what cannot be. */
  async last(): Promise<StandstillTimes | undefined> {
    if (this.#seen < this.#whole) {
      await new Promise<void>((resolve) => {
        const limit = setTimeout(resolve, EVENT_LIMIT_MS);
        this.#waiting.push(() => {
          clearTimeout(limit);
          resolve();
        });
      });
    }
    return this.#last;
  }
}
