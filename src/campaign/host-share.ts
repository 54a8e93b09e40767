/**
 * How much of what it wanted the box got of its host. A box whose threads wait for a processor runs in slow motion, and what is
 * asked of it within some time of the host's clock, it is asked within less of its own.
 */
import { readdirSync } from 'node:fs';
import { type ThreadTimes, threadTimes } from '../machine/proc.js';

export class HostShare {
  readonly #pid: () => number;
  #since: ThreadTimes;

  /** @param pid of the box's QEMU */
  constructor(pid: () => number) {
    this.#pid = pid;
    this.#since = usedBy(pid());
  }

  /** Counts from now on. */
  reset(): void {
    this.#since = usedBy(this.#pid());
  }

  /** Share of the time in which the box's threads could run and had to wait, in 0..1. */
  get waited(): number {
    const now = usedBy(this.#pid());
    const ranMs = now.ranMs - this.#since.ranMs;
    const waitedMs = now.waitedMs - this.#since.waitedMs;
    return ranMs + waitedMs < LEAST_MS ? 0 : Math.max(0, waitedMs / (ranMs + waitedMs));
  }

  /** How many times slower than on a host of its own the box runs: 1 where it never waits, at most 10. */
  get slowdown(): number {
    return Math.min(10, 1 / (1 - Math.min(0.9, this.waited)));
  }
}

/** Of less than this nothing can be told, in milliseconds. */
const LEAST_MS = 200;

/** All threads of a process together. */
function usedBy(pid: number): ThreadTimes {
  let ranMs = 0;
  let waitedMs = 0;
  for (const thread of threadsOf(pid)) {
    const times = threadTimes(pid, thread);
    ranMs += times.ranMs;
    waitedMs += times.waitedMs;
  }
  return { ranMs, waitedMs };
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}
