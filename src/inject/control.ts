/** The machine as an injector starts and stops it: whoever paces the outside world by it is told each time. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from '../machine/machine.js';

export interface ControlOptions {
  readonly signal: AbortSignal;
  /** Called with true whenever the injector stops the machine, and with false whenever it lets it go. */
  readonly held?: (held: boolean) => void;
}

export class Control {
  readonly machine: Machine;
  readonly signal: AbortSignal;
  readonly #told: (held: boolean) => void;
  #held: boolean;

  constructor(machine: Machine, { signal, held = () => {} }: ControlOptions) {
    this.machine = machine;
    this.signal = signal;
    this.#told = held;
    this.#held = machine.state === 'frozen';
  }

  /** Stops all CPUs. @throws NL_INTERRUPTED when the signal was aborted, and as the machine does */
  async freeze(): Promise<void> {
    await this.machine.freeze();
    this.#note(true);
    this.signal.throwIfAborted();
  }

  /** Lets all CPUs run. */
  async resume(): Promise<void> {
    this.signal.throwIfAborted();
    this.#note(false);
    await this.machine.resume();
  }

  /** Lets all CPUs run for some time and stops them. For no time, not a single instruction is executed. */
  async runFor(ms: number): Promise<void> {
    if (ms === 0) return this.freeze();
    await this.resume();
    await sleep(ms, undefined, { signal: this.signal }).catch(() => {});
    await this.freeze();
  }

  #note(held: boolean): void {
    if (held === this.#held) return;
    this.#held = held;
    this.#told(held);
  }
}
