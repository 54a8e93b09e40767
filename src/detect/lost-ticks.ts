/**
 * Guests that no timer interrupts. Time may go wrong for Xen although its interrupts, hypercalls and schedulers work. Seen with a code
 * fault in `get_s_time`, for which the factor was not loaded: a CPU's time ran a third too fast, and fell back with each
 * calibration, once a second. A guest's own clock was right, so that its timers had passed by Xen's when it asked for them; it was
 * interrupted at once, found nothing due, asked again, and got nothing else done. What Xen set before a calibration was a quarter
 * of a second late after it, the scheduler's timer among them. A look finds such a CPU in its guest as often as in Xen, so that
 * the hang watch's suspicions come to nothing.
 *
 * While a vCPU runs, credit2 sets its timer at most 10 ms ahead (Xen 4.17, common/sched/credit2.c: CSCHED2_MAX_TIMER), or as far as its
 * rate limit says, and credit a tick (common/sched/credit.c: tick_period_us). So a CPU in a guest that executes for 30 ms without an
 * interrupt and with the same deadline has lost ticks, wherever it stands. A host that is late with an interrupt can do the
 * same; hence several such stretches, and looks at the frozen machine, where an interrupt that was late is on its way.
 */
import type { CpuState } from '../xen/cpus.js';
import { idleVcpu } from '../xen/domains.js';
import { schedulerKind, schedulerResources } from '../xen/scheduler.js';
import { cpuStack } from '../xen/stack.js';
import type { Xen } from '../xen/xen.js';
import { haveOwnThreads, isTimerRequested } from './late-timers.js';
import type { CpuSample } from './watchdog.js';

export interface TickSample extends Pick<CpuSample, 'ranMs'> {
  /** Whether a vCPU of a domain runs on it. */
  readonly runsGuest: boolean;
  /** Changes with each interrupt, and each time that its local timer is set to another time. */
  readonly ticks: string;
}

export interface LostTicks {
  readonly cpu: number;
  readonly ticks: string;
  /** Since when the stretches were seen, in milliseconds of host time. */
  readonly stalledMs: number;
}

/** A stretch without a tick, in milliseconds of the CPU's own time. */
const STRETCH_MS = 30;
/**
 * So many of them within so many milliseconds of host time are a suspicion, if there were ticks in between: a CPU that has none at all
 * is the hang watch's.
 */
const STRETCHES = 4;
const WITHIN_MS = 10_000;
/** A scheduler that lets a vCPU run longer than this is not judged, in milliseconds. */
export const LONGEST_RUN_MS = STRETCH_MS / 2;
/** `CSCHED2_MAX_TIMER`, in milliseconds. */
const CREDIT2_RUN_MS = 10;

interface Stretch {
  readonly ticks: string;
  readonly sinceMs: number;
  /** Own time at the first look that found the ticks unchanged: what ran between two readings of one look does not count. */
  readonly ranMs: number | undefined;
}

interface Lost {
  readonly sinceMs: number;
  readonly endMs: number;
  readonly ticks: string;
}

/** The pure part: feed it samples, it says what is suspected. */
export class LostTickWatch {
  readonly #isJudged: boolean;
  readonly #stretches = new Map<number, Stretch>();
  /** Of each CPU when the stretches without a tick began and ended. */
  readonly #lost = new Map<number, Lost[]>();

  /** @param threads of the CPUs: where QEMU gives them one in common, the time that it ran is nobody's own */
  constructor(threads: readonly number[]) {
    this.#isJudged = haveOwnThreads(threads);
  }

  /** @param nowMs host-monotonic milliseconds */
  observe(cpus: readonly TickSample[], nowMs: number): LostTicks | undefined {
    if (!this.#isJudged) return undefined;
    for (const [cpu, sample] of cpus.entries()) this.#note(cpu, sample, nowMs);
    for (const [cpu, stretches] of this.#lost) {
      const recent = stretches.filter(({ endMs }) => nowMs - endMs <= WITHIN_MS);
      this.#lost.set(cpu, recent);
      if (recent.length < STRETCHES || new Set(recent.map((one) => one.ticks)).size < 2) continue;
      // Where it comes to nothing, as many others have to be seen.
      this.#lost.delete(cpu);
      return { cpu, ticks: cpus[cpu]!.ticks, stalledMs: nowMs - recent[0]!.sinceMs };
    }
    return undefined;
  }

  /**
   * The machine was frozen: what goes on is a new stretch. Those that were seen stay, since a CPU without ticks is suspected of
   * hanging, and frozen, again and again.
   */
  pause(): void {
    this.#stretches.clear();
  }

  #note(cpu: number, { runsGuest, ticks, ranMs }: TickSample, nowMs: number): void {
    const stretch = this.#stretches.get(cpu);
    if (!runsGuest) {
      this.#stretches.delete(cpu);
    } else if (stretch?.ticks !== ticks) {
      this.#stretches.set(cpu, { ticks, sinceMs: nowMs, ranMs: undefined });
    } else if (stretch.ranMs === undefined) {
      this.#stretches.set(cpu, { ...stretch, ranMs });
    } else if (ranMs - stretch.ranMs >= STRETCH_MS) {
      this.#lost.set(cpu, [...(this.#lost.get(cpu) ?? []), { sinceMs: stretch.sinceMs, endMs: nowMs, ticks }]);
      this.#stretches.set(cpu, { ticks, sinceMs: nowMs, ranMs });
    }
  }
}

/** Addresses of the words to look at. */
interface TickWords {
  readonly current: bigint;
  readonly idle: bigint;
  readonly deadline: bigint;
  readonly interrupts: bigint;
}

const tickWords = (xen: Xen, cpu: number): TickWords => ({
  current: cpuStack(xen, cpu).info.at('current_vcpu'),
  idle: idleVcpu(xen, cpu),
  deadline: xen.perCpu('timer_deadline', cpu),
  interrupts: xen.perCpu('irq_count', cpu),
});

/** Another vCPU is progress as well. */
const ticksOf = ({ memory }: Xen, { current, deadline, interrupts }: TickWords): string =>
  `${memory.u64(current)} ${memory.u64(deadline)} ${memory.u32(interrupts)}`;

/** Reads the words of a running machine that the watch looks at. */
export class TickSampler {
  readonly #xen: Xen;
  readonly #words: readonly TickWords[];

  constructor(xen: Xen) {
    this.#xen = xen;
    this.#words = Array.from({ length: xen.cpuCount }, (_, cpu) => tickWords(xen, cpu));
  }

  /** @param times host time of the CPUs' threads */
  cpus(times: readonly Pick<CpuSample, 'ranMs'>[]): TickSample[] {
    return this.#words.map((words, cpu) => ({
      runsGuest: this.#xen.memory.u64(words.current) !== words.idle,
      ticks: ticksOf(this.#xen, words),
      ranMs: times[cpu]!.ranMs,
    }));
  }
}

/**
 * Whether a look at the frozen machine bears out what was suspected: the vCPU still runs, nothing has interrupted it, its timer's
 * interrupt is not on its way, and its scheduler would have set one.
 */
export function isWithoutTicks(
  xen: Xen,
  { cpu, ticks }: LostTicks,
  { where, current }: Pick<CpuState, 'where' | 'current'>,
): boolean {
  if (where === 'halted' || current.domain.kind === 'idle') return false;
  if (ticksOf(xen, tickWords(xen, cpu)) !== ticks) return false;
  if (isTimerRequested(xen, cpu)) return false;
  const longestMs = longestRunMs(xen, cpu);
  return longestMs !== undefined && longestMs <= LONGEST_RUN_MS;
}

/**
 * How long a scheduler lets a CPU run a vCPU without a timer, in milliseconds. `undefined` of those that we do not know, and where CPUs
 * are scheduled in groups, of which one has the timer.
 */
function longestRunMs(xen: Xen, cpu: number): number | undefined {
  const resource = schedulerResources(xen)[cpu]!;
  const kind = schedulerKind(xen, resource);
  if (kind === 'other' || resource.num('granularity') > 1) return undefined;
  const data = xen.object('scheduler', resource.u64('scheduler')).u64('sched_data');
  if (kind === 'credit') return xen.object('csched_private', data).num('tick_period_us') / 1000;
  return Math.max(CREDIT2_RUN_MS, xen.object('csched2_private', data).num('ratelimit_us') / 1000);
}
