/**
 * The hang watchdog, from outside and without a change to Xen. It reads a few words of the running machine's memory that
 * change whenever a CPU gets anything done in Xen, and how much host time the CPU's thread has used. A CPU that uses
 * time and gets nothing done is suspected; the guard then freezes the machine and looks where it stands.
 *
 * Counting the time the thread *ran*, not the time that passed, is what keeps a busy host from causing alarms: a CPU
 * that was not scheduled by the host did not have the chance to make progress. Nor has a CPU that spins for a lock whose
 * holder is not scheduled: every other CPU must have had its share as well. (NiLiHype counts three periods of 100 ms of
 * a software tick inside Xen, which has no such notion.)
 *
 * Credit2 sets its timer at most 10 ms ahead while a vCPU runs (Xen 4.17, common/sched/credit2.c: CSCHED2_MAX_TIMER), so
 * a CPU in a guest handles a timer about every 10 ms of its own time, and its timer deadline changes. A CPU with nothing to do
 * has no timer; it counts as getting something done when it takes an interrupt and nothing waits to be handled after it, which it
 * does once a second at the least, for the calibration of time.
 */
import type { Xen } from '../xen/xen.js';

export interface CpuSample {
  /** Words that change when the CPU gets something done in Xen. */
  readonly progress: string;
  /** Whether softirqs wait to be handled. */
  readonly softirqPending: boolean;
  /** Host time that the CPU's thread has executed, in milliseconds since it began. */
  readonly ranMs: number;
  /** Host time that the thread has waited for a processor of the host although it could run, in milliseconds. */
  readonly waitedMs: number;
}

export interface HangLimits {
  /** A CPU that executed this long without progress is suspected, in milliseconds of its own time. */
  readonly ranMs: number;
  /** And this much host time must have passed, in milliseconds. */
  readonly passedMs: number;
}

/** Leaves room for two looks of the guard (some 20 ms) below the 300 ms within which a hang is to be declared. */
export const DEFAULT_LIMITS: HangLimits = { ranMs: 120, passedMs: 200 };

export interface Suspicion {
  readonly cpu: number;
  /** Since when it got nothing done, in milliseconds of host time. */
  readonly stalledMs: number;
}

interface Standing {
  readonly progress: string;
  readonly sinceMs: number;
  /** All samples as of the moment since which this CPU stands. */
  readonly atStart: readonly CpuSample[];
}

/** The pure part: feed it samples, it says who is suspected. */
export class HangWatch {
  readonly #limits: HangLimits;
  readonly #cpus = new Map<number, Standing>();

  constructor(limits: HangLimits = DEFAULT_LIMITS) {
    this.#limits = limits;
  }

  /** CPUs that are suspected as of this sample. @param nowMs host-monotonic milliseconds */
  observe(samples: readonly CpuSample[], nowMs: number): Suspicion[] {
    const suspected: Suspicion[] = [];
    for (const [cpu, sample] of samples.entries()) {
      const standing = this.#cpus.get(cpu);
      if (standing === undefined || standing.progress !== sample.progress) {
        this.#cpus.set(cpu, { progress: sample.progress, sinceMs: nowMs, atStart: samples });
        continue;
      }
      const stalledMs = nowMs - standing.sinceMs;
      if (stalledMs < this.#limits.passedMs) continue;
      const ran = sample.ranMs - standing.atStart[cpu]!.ranMs;
      // A CPU halted with interrupts off does not run at all; work that waits for it gives it away.
      const dead = ran < 1 && sample.softirqPending;
      if (!dead && ran < this.#limits.ranMs) continue;
      if (samples.some((other, n) => isStarved(other, standing.atStart[n]!, this.#limits))) continue;
      suspected.push({ cpu, stalledMs });
    }
    return suspected;
  }

  /** Begins anew: after a recovery, a freeze, or a suspicion that came to nothing. */
  reset(): void {
    this.#cpus.clear();
  }
}

type Times = Pick<CpuSample, 'ranMs' | 'waitedMs'>;

/** Whether the host kept a CPU from running: it waited, and ran less than a quarter of what a suspect must have. */
export function isStarved(now: Times, then: Times, limits: HangLimits): boolean {
  return now.waitedMs - then.waitedMs > limits.ranMs / 4 && now.ranMs - then.ranMs < limits.ranMs / 4;
}

/** Addresses of the words to look at, per CPU: the APIC timer's deadline and the softirq word with interrupt counts. */
export interface ProgressWords {
  readonly deadline: bigint;
  readonly softirq: bigint;
  readonly runstate: bigint;
  readonly interrupts: bigint;
}

export function progressWords(xen: Xen): ProgressWords[] {
  return Array.from({ length: xen.cpuCount }, (_, cpu) => ({
    deadline: xen.perCpu('timer_deadline', cpu),
    softirq: xen.irqStat(cpu).address,
    runstate: xen.perCpu('curr_vcpu', cpu),
    interrupts: xen.perCpu('irq_count', cpu),
  }));
}

/** Reads one CPU's words from the running machine. */
export function sampleProgress(
  xen: Xen,
  words: ProgressWords,
  thread: Pick<CpuSample, 'ranMs' | 'waitedMs'>,
): CpuSample {
  const { memory } = xen;
  const pending = memory.u32(words.softirq);
  // What hangs with interrupts on takes them as well, and leaves their work undone.
  const last = pending === 0 ? `${memory.u32(words.interrupts)} interrupts` : `${pending} pending`;
  const progress = `${memory.u64(words.deadline)} ${memory.u64(words.runstate)} ${last}`;
  return { progress, softirqPending: pending !== 0, ...thread };
}
