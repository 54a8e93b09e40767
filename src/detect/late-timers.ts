/**
 * Timers that nobody handles although their CPU gets on: its local timer was not set, or what it leads to does nothing. Interrupts of
 * devices and of other CPUs go on, so that a guest with a network works, and whoever sleeps does so for ever. Seen with a code
 * fault in `reprogram_timer`, whose store missed the local interrupt controller's register: 20 s of it, with nothing else wrong.
 *
 * Xen sets a CPU's local timer for the first timer of its heap (Xen 4.17, common/timer.c), so that one timer in that place, long
 * after its time, is enough. What time it is by Xen's clock cannot be read from outside. But a CPU notes the time when clocks are
 * calibrated, once a second, and when it begins or ceases to be idle: it is that late at the least, and half of what the host has
 * counted since. Half, since a host that lets a CPU wait in a calibration makes its clock wrong for the next second.
 *
 * How long a CPU waited for the host does not matter: the frozen machine tells whether the interrupt is on its way.
 */
import { clockOf, latest } from '../xen/clocks.js';
import type { CpuState } from '../xen/cpus.js';
import { ifReadable } from '../xen/damage.js';
import { idleVcpu } from '../xen/domains.js';
import { type FirstTimer, firstTimer } from '../xen/timers.js';
import type { Xen } from '../xen/xen.js';
import { type CpuSample, DEFAULT_LIMITS } from './watchdog.js';

export interface TimerSample extends Pick<CpuSample, 'ranMs'> {
  /** `undefined` where it has none, or where that cannot be read. */
  readonly first: FirstTimer | undefined;
  /** The latest time that the CPU noted, by Xen's clock, in nanoseconds. */
  readonly notedNs: bigint;
}

export interface LateTimer extends FirstTimer {
  readonly cpu: number;
  /** How long it has been late at the least, in milliseconds of host time. */
  readonly stalledMs: number;
}

/**
 * In milliseconds of host time. A clock that is set right can jump over a timer by half a second, whose interrupt then comes
 * when it would have come.
 */
const LATE_MS = 1000;
/** After a freeze, which may have been a recovery, CPUs have so much time to handle what they find; in milliseconds. */
const CHANCE_MS = DEFAULT_LIMITS.passedMs / 2;
/** In nanoseconds of Xen's clock for a millisecond of the host's. */
const HALF_OF_THE_HOST = 500_000;

/**
 * How much passes on Xen's clock at the least, in nanoseconds for a millisecond of the host's. QEMU's CPUs share a thread where it
 * counts instructions instead of time: then nothing is certain but what was noted.
 */
export const leastPace = (threads: readonly number[]): number => (haveOwnThreads(threads) ? HALF_OF_THE_HOST : 0);

/** Whether each CPU has a thread of the host to itself, whose time is its own. */
export const haveOwnThreads = (threads: readonly number[]): boolean =>
  threads.length > 1 && new Set(threads).size === threads.length;

interface Late extends FirstTimer {
  readonly sinceMs: number;
  readonly ranMs: number;
}

/** The pure part: feed it samples, it says what is suspected. */
export class LateTimerWatch {
  readonly #pace: number;
  /** What the host counted while the machine ran and was looked at, in milliseconds: never more than has passed on the machine. */
  #runMs = 0;
  #lookedMs: number | undefined;
  #pausedMs = 0;
  /** Of each CPU the last note of time, and when it was first seen. */
  readonly #notes = new Map<number, { readonly notedNs: bigint; readonly seenMs: number }>();
  readonly #late = new Map<number, Late>();

  /** @param pace as `leastPace` gives it */
  constructor(pace: number) {
    this.#pace = pace;
  }

  /**
   * @param nowMs host-monotonic milliseconds
   * @param isAsleep whether a CPU's thread sleeps now; asked only in a suspicion
   */
  observe(cpus: readonly TimerSample[], nowMs: number, isAsleep: (cpu: number) => boolean): LateTimer | undefined {
    this.#runMs += nowMs - (this.#lookedMs ?? nowMs);
    this.#lookedMs = nowMs;
    for (const [cpu, sample] of cpus.entries()) this.#note(cpu, sample);
    if (this.#runMs - this.#pausedMs < CHANCE_MS) return undefined;
    const isLate = ([, { sinceMs }]: [number, Late]): boolean => this.#runMs - sinceMs >= LATE_MS;
    const late = [...this.#late].filter(isLate);
    const ranLong = ([cpu, { ranMs }]: [number, Late]): boolean => cpus[cpu]!.ranMs - ranMs >= DEFAULT_LIMITS.ranMs;
    const found = late.find(([cpu]) => isAsleep(cpu)) ?? late.find(ranLong);
    if (found === undefined) return undefined;
    const [cpu, { timer, expires, sinceMs }] = found;
    // Where it comes to nothing, it is suspected again as much later.
    this.#late.delete(cpu);
    return { cpu, timer, expires, stalledMs: this.#runMs - sinceMs };
  }

  /**
   * The machine was frozen: what passes until the next look does not count. What is known stays, since a CPU that runs a guest and
   * has no timer is suspected of hanging, and frozen, again and again.
   */
  pause(): void {
    this.#lookedMs = undefined;
    this.#pausedMs = this.#runMs;
  }

  #note(cpu: number, { first, notedNs, ranMs }: TimerSample): void {
    if (this.#notes.get(cpu)?.notedNs !== notedNs) this.#notes.set(cpu, { notedNs, seenMs: this.#runMs });
    const passedMs = this.#runMs - this.#notes.get(cpu)!.seenMs;
    const leastNs = notedNs + BigInt(Math.floor(passedMs * this.#pace));
    const before = this.#late.get(cpu);
    if (first === undefined || leastNs < first.expires) this.#late.delete(cpu);
    else if (before?.timer !== first.timer || before.expires !== first.expires)
      this.#late.set(cpu, { ...first, sinceMs: this.#runMs, ranMs });
  }
}

/** Reads the words of a running machine that the watch looks at. */
export class TimerSampler {
  readonly #xen: Xen;
  /** Of each CPU the addresses of its two notes of time. */
  readonly #notes: readonly (readonly [bigint, bigint])[];

  constructor(xen: Xen) {
    this.#xen = xen;
    this.#notes = Array.from({ length: xen.cpuCount }, (_, cpu) => {
      const idle = xen.object('vcpu', idleVcpu(xen, cpu));
      return [idle.at('runstate.state_entry_time'), clockOf(xen, cpu).at('stamp.local_stime')];
    });
  }

  /** @param times host time of the CPUs' threads */
  cpus(times: readonly Pick<CpuSample, 'ranMs'>[]): TimerSample[] {
    const { memory } = this.#xen;
    return this.#notes.map(([idleAt, clockAt], cpu) => {
      const first = ifReadable(() => firstTimer(this.#xen, cpu));
      return { first, notedNs: latest([memory.u64(idleAt), memory.u64(clockAt)]), ranMs: times[cpu]!.ranMs };
    });
  }
}

/**
 * Whether a look at the frozen machine bears out what was suspected: the CPU is out of Xen, where it takes interrupts, the timer is
 * still its first, and nothing is on its way that would have it handled.
 */
export function isLeftLate(xen: Xen, { cpu, timer, expires }: LateTimer, { where }: Pick<CpuState, 'where'>): boolean {
  if (where === 'xen') return false;
  const first = firstTimer(xen, cpu);
  if (first?.timer !== timer || first.expires !== expires) return false;
  const softirq = 1 << xen.profile.enumValue('TIMER_SOFTIRQ');
  const isRaised = (xen.irqStat(cpu).num('__softirq_pending') & softirq) !== 0;
  return !isRaised && !isTimerRequested(xen, cpu);
}

/** Whether the interrupt of a CPU's local timer waits to be taken. */
export const isTimerRequested = (xen: Xen, cpu: number): boolean =>
  xen.view.lapic(cpu).requested.includes(Number(xen.profile.constant('LOCAL_TIMER_VECTOR')));
