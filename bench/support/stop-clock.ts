/** When a machine ran and when it stood still, by QEMU's own clock: it stamps its STOP and RESUME events. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from '../../dist/machine/machine.js';

interface Tick {
  readonly name: 'STOP' | 'RESUME';
  readonly happenedMs: number;
}

export interface Passage {
  /** From the moment at which the broken machine ran on to its stop: the failure showed itself and was detected. */
  readonly detectionMs: number;
  /** From that stop to the resumption; runs of single CPUs in between count as standing still. */
  readonly standstillMs: number;
}

/** Events take their own way to us: this long we wait for the last ones. */
const EVENT_LIMIT_MS = 300;

export class StopClock implements Disposable {
  #ticks: Tick[] = [];
  readonly #end: () => void;

  constructor(machine: Machine) {
    this.#end = machine.qmp.subscribe(({ name, happenedMs }) => {
      if (name === 'STOP' || name === 'RESUME') this.#ticks.push({ name, happenedMs });
    });
  }

  /** Forgets what happened so far. Call it while the machine stands, broken. */
  async reset(): Promise<void> {
    await sleep(5);
    this.#ticks = [];
  }

  /**
   * From the first resumption since `reset` to the last one.
   * @param looks stops of the whole machine that came before the one that counts: a watchdog's looks at a suspect
   */
  async passage(looks = 0): Promise<Passage | undefined> {
    const begin = performance.now();
    while (performance.now() - begin < EVENT_LIMIT_MS) {
      const stops = this.#ticks.filter(({ name }) => name === 'STOP');
      const first = this.#ticks[0];
      const stop = stops[looks];
      const last = this.#ticks.at(-1);
      if (first?.name === 'RESUME' && stop !== undefined && last?.name === 'RESUME' && last !== first) {
        return { detectionMs: stop.happenedMs - first.happenedMs, standstillMs: last.happenedMs - stop.happenedMs };
      }
      await sleep(2);
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
