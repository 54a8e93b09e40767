/** What the watches suspect in the running box, and what has to be so in the frozen one for it to be a failure. */
import { isLeftLate, type LateTimer, LateTimerWatch, leastPace, TimerSampler } from '../detect/late-timers.js';
import { isWithoutTicks, LONGEST_RUN_MS, type LostTicks, LostTickWatch, TickSampler } from '../detect/lost-ticks.js';
import { isNeglected, type Neglect, NeglectSampler, NeglectWatch } from '../detect/neglect.js';
import { isOnItsWay, type NoReturn, NoReturnWatch, ReturnSampler } from '../detect/no-return.js';
import { DEFAULT_LIMITS, HangWatch, type ProgressWords, progressWords, sampleProgress } from '../detect/watchdog.js';
import { isAsleep, NEVER_RAN, threadTimes } from '../machine/proc.js';
import { type CpuState, readSituation } from '../xen/cpus.js';
import { attempt } from '../xen/damage.js';
import { listDomains } from '../xen/domains.js';
import type { Xen } from '../xen/xen.js';
import type { Target } from './target.js';

/** What a CPU does that does something is told by more looks. */
const BUSY_LOOKS = 4;
/** And what a CPU does whose guest may do the same all the time, by more still, between which it has to execute so many milliseconds. */
const RETURN_LOOKS = 8;
const RETURN_RAN_MS = 30;

const WORDS: Readonly<Record<Neglect['kind'], (cpu: number) => string>> = {
  'vcpu-left-waiting': (cpu) => `CPU ${cpu} slept, and a vCPU that could run waited for it`,
  'softirq-left-waiting': (cpu) => `CPU ${cpu} executed, and a softirq waited`,
  'idle-cpu-busy': (cpu) => `CPU ${cpu} executed, and had nothing to do`,
  'interrupt-left-in-service': (cpu) => `an interrupt that CPU ${cpu} gave to a guest stayed in service`,
};

/** What a CPU is suspected of, and whether a look at the frozen machine, taken with others like it, bears it out. */
export interface Suspect {
  readonly cpu: number;
  readonly stalledMs: number;
  readonly looks: number;
  readonly summary: (ms: number, at: string) => string;
  readonly isSo: (xen: Xen) => boolean;
}

export class Suspicions {
  readonly #target: Target;
  readonly #hangs = new HangWatch(DEFAULT_LIMITS);
  readonly #words: ProgressWords[];
  readonly #neglects = new NeglectWatch();
  readonly #sampler: NeglectSampler;
  readonly #timers: LateTimerWatch;
  readonly #timerSampler: TimerSampler;
  readonly #ticks: LostTickWatch;
  readonly #tickSampler: TickSampler;
  readonly #returns: NoReturnWatch;
  readonly #returnSampler: ReturnSampler;

  constructor(target: Target) {
    this.#target = target;
    this.#words = progressWords(target.xen);
    this.#sampler = new NeglectSampler(target.xen);
    this.#timers = new LateTimerWatch(leastPace(target.machine.threadIds));
    this.#timerSampler = new TimerSampler(target.xen);
    this.#ticks = new LostTickWatch(target.machine.threadIds);
    this.#tickSampler = new TickSampler(target.xen);
    this.#returns = new NoReturnWatch(target.machine.threadIds);
    this.#returnSampler = new ReturnSampler(target.xen, target.facts);
  }

  /** One look at the running machine. */
  look(): Suspect | undefined {
    const { machine, xen } = this.#target;
    const threads = machine.threadIds;
    const times = this.#words.map((_, cpu) => threadTimes(machine.pid, threads[cpu]!));
    const nowMs = performance.now();
    const samples = this.#words.map((words, cpu) => sampleProgress(xen, words, times[cpu]!));
    const lost = this.#ticks.observe(this.#tickSampler.cpus(times), nowMs);
    const [hung] = this.#hangs.observe(samples, nowMs);
    if (hung !== undefined) return this.#hung(hung.cpu, hung.stalledMs);
    if (lost !== undefined) return this.#withoutTicks(lost);
    const asleep = (cpu: number): boolean => isAsleep(machine.pid, threads[cpu]!);
    const [neglect] = this.#neglects.observe(this.#sampler.cpus(samples), this.#sampler.vcpus(), nowMs, asleep);
    if (neglect !== undefined) return this.#neglected(neglect);
    const late = this.#timers.observe(this.#timerSampler.cpus(times), nowMs, asleep);
    if (late !== undefined) return this.#late(late);
    const away = this.#returns.observe(this.#returnSampler.cpus(times), nowMs);
    return away === undefined ? undefined : this.#withoutReturn(away);
  }

  #late(late: LateTimer): Suspect {
    const { cpu, stalledMs } = late;
    return {
      cpu,
      stalledMs,
      looks: BUSY_LOOKS,
      summary: (ms, at) => `CPU ${cpu} did not handle a timer that was due, for ${Math.round(ms)} ms, at ${at}`,
      isSo: (xen) => this.#shows(xen, cpu, (state) => isLeftLate(xen, late, state)),
    };
  }

  /** Between the looks it has to execute for as long as a scheduler ever lets it: what the host delayed came with the first freeze. */
  #withoutTicks(lost: LostTicks): Suspect {
    const { cpu, stalledMs } = lost;
    const hasRun = this.#hasRun(cpu, BUSY_LOOKS, LONGEST_RUN_MS);
    return {
      cpu,
      stalledMs,
      looks: BUSY_LOOKS,
      summary: (ms, at) => `CPU ${cpu} ran a guest, and no timer interrupted it, for ${Math.round(ms)} ms, at ${at}`,
      isSo: (xen) => this.#shows(xen, cpu, (state) => hasRun() && isWithoutTicks(xen, lost, state)),
    };
  }

  #withoutReturn(away: NoReturn): Suspect {
    const { cpu, stalledMs } = away;
    const hasRun = this.#hasRun(cpu, RETURN_LOOKS, RETURN_RAN_MS);
    return {
      cpu,
      stalledMs,
      looks: RETURN_LOOKS,
      summary: (ms, at) => `CPU ${cpu} did not get back to its guest for ${Math.round(ms)} ms, at ${at}`,
      isSo: (xen) => this.#shows(xen, cpu, (state) => hasRun() && isOnItsWay(xen, this.#target.facts, away, state)),
    };
  }

  /** Asked at each of some looks, tells at the last one whether a CPU has executed long enough since the first. */
  #hasRun(cpu: number, looks: number, leastMs: number): () => boolean {
    let look = 0;
    let ranMs = 0;
    return () => {
      const now = this.#ranMs(cpu);
      if (look++ === 0) ranMs = now;
      return look < looks || now - ranMs > leastMs;
    };
  }

  /** Host time that a CPU has executed, in milliseconds. */
  #ranMs(cpu: number): number {
    const { machine } = this.#target;
    return threadTimes(machine.pid, machine.threadIds[cpu]!).ranMs;
  }

  #neglected(neglect: Neglect): Suspect {
    const { cpu, stalledMs, kind } = neglect;
    return {
      cpu,
      stalledMs,
      looks: kind === 'vcpu-left-waiting' ? 2 : BUSY_LOOKS,
      summary: (ms, at) => `${WORDS[kind](cpu)} for ${Math.round(ms)} ms, at ${at}`,
      isSo: (xen) => this.#shows(xen, cpu, (state) => isNeglected(xen, neglect, state)),
    };
  }

  /** A CPU that stands in Xen at every look and got nothing done. */
  #hung(cpu: number, stalledMs: number): Suspect {
    const before = this.#progress(cpu);
    return {
      cpu,
      stalledMs,
      looks: 2,
      summary: (ms, at) => `CPU ${cpu} made no progress in Xen for ${Math.round(ms)} ms, at ${at}`,
      isSo: (xen) => this.#shows(xen, cpu, ({ where }) => where === 'xen') && this.#progress(cpu) === before,
    };
  }

  /** Whether a CPU of the frozen machine is as suspected. Damage that hides what it does bears the suspicion out. */
  #shows(xen: Xen, cpu: number, isAs: (state: CpuState) => boolean): boolean {
    const looked = attempt(() => isAs(readSituation(xen, this.#target.facts, listDomains(xen)).cpus[cpu]!));
    return 'damage' in looked || looked.value;
  }

  /** Begins anew: after a recovery, a freeze, or a suspicion that came to nothing. */
  reset(): void {
    this.#hangs.reset();
    this.#neglects.reset();
    this.#timers.pause();
    this.#ticks.pause();
    this.#returns.pause();
    this.#sampler.forget();
  }

  #progress(cpu: number): string {
    return sampleProgress(this.#target.xen, this.#words[cpu]!, NEVER_RAN).progress;
  }
}
