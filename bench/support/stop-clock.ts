/**
 * How long a machine stood still, by the clock of whoever stopped and resumed it: QEMU stamps its STOP and RESUME events
 * itself, so neither the way of a message to us nor the host's scheduler between our system calls is in it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from '../../dist/machine/machine.js';

interface Tick {
  readonly name: 'STOP' | 'RESUME';
  readonly happenedMs: number;
}

/** Events take their own way to us: this long we wait for the last ones. */
const EVENT_GRACE_MS = 300;

export class StopClock implements Disposable {
  #ticks: Tick[] = [];
  readonly #end: () => void;

  constructor(machine: Machine) {
    this.#end = machine.qmp.subscribe(({ name, happenedMs }) => {
      if (name === 'STOP' || name === 'RESUME') this.#ticks.push({ name, happenedMs });
    });
  }

  /** Forgets what happened so far. */
  async reset(): Promise<void> {
    await sleep(5);
    this.#ticks = [];
  }

  /**
   * From the first stop since `reset` to the resumption that ended it: for a recovery, stops and starts of single CPUs in
   * between count as standing still.
   */
  async stoodMs(): Promise<{ readonly stoodMs: number; readonly untilStopMs: number }> {
    const begin = performance.now();
    while (performance.now() - begin < EVENT_GRACE_MS) {
      const first = this.#ticks.findIndex(({ name }) => name === 'STOP');
      const last = this.#ticks.at(-1);
      if (first >= 0 && last?.name === 'RESUME') {
        const started = this.#ticks[0]!;
        const stop = this.#ticks[first]!;
        return {
          stoodMs: last.happenedMs - stop.happenedMs,
          untilStopMs: first > 0 ? stop.happenedMs - started.happenedMs : Number.NaN,
        };
      }
      await sleep(2);
    }
    return { stoodMs: Number.NaN, untilStopMs: Number.NaN };
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
