/**
 * Work that nobody does although every CPU gets on: what the hang watchdog takes for life. A vCPU that could run and does not,
 * while its CPU waits in its idle loop (a scheduler that picks wrongly, a wake-up that reached another unit, time without an end
 * that was used up, a switch to the idle vCPU that left it "running"); softirqs that wait while their CPU executes and its vCPUs take
 * no turns (others, handled before them, raise themselves for ever); an idle CPU that executes all the time; and an interrupt that
 * stays in a guest's hands, with which its device is deaf. All were seen with code faults: the box, or its network, was dead, and
 * its timers and interrupts went on.
 *
 * Xen makes a vCPU runnable and tells its CPU in one piece with interrupts off (Xen 4.17, common/sched/core.c: vcpu_wake). So where
 * that CPU's thread sleeps, and each other one sleeps or has taken an interrupt since, nobody is in between any more, however
 * long the host kept a CPU from running: a thread that waits for the host does not sleep.
 */
import type { CpuState } from '../xen/cpus.js';
import { ifReadable } from '../xen/damage.js';
import { allVcpus, idleVcpu, listDomains } from '../xen/domains.js';
import { lineOf, pendingEoiCount, pendingEois } from '../xen/interrupts.js';
import { capOf, RUNSTATE, schedulerKind, VPF } from '../xen/scheduler.js';
import { cpuStack } from '../xen/stack.js';
import type { Xen } from '../xen/xen.js';
import { type CpuSample, DEFAULT_LIMITS, isStarved } from './watchdog.js';

export interface IdleSample extends Pick<CpuSample, 'progress' | 'ranMs' | 'waitedMs'> {
  /** Whether its idle vCPU runs on it. */
  readonly idle: boolean;
  /** When its idle vCPU last began or ceased to run, by Xen's clock. */
  readonly idleSince: bigint;
  /** Whether an idle CPU has something to execute: tasklets, memory to scrub. */
  readonly hasIdleWork: boolean;
  /** Softirqs that wait to be handled, one bit each. */
  readonly softirqs: number;
  /** Which vCPU runs on it, and since when. */
  readonly turn: string;
  /** Interrupts taken so far; wraps. */
  readonly interrupts: number;
  /** The interrupt that has been in a guest's hands longest, if any; another one of the same line reads differently. */
  readonly inHands?: string | undefined;
}

export interface VcpuSample {
  readonly vcpu: bigint;
  /** Or running, or parked until its time is refilled, of which those that are watched have no end. */
  readonly runnable: boolean;
  /** When it became what it is, by Xen's clock. */
  readonly since: bigint;
  readonly cpu: number;
}

export interface Neglect {
  readonly kind: 'vcpu-left-waiting' | 'softirq-left-waiting' | 'idle-cpu-busy' | 'interrupt-left-in-service';
  readonly cpu: number;
  /** The vCPU that waits, as it was sampled. */
  readonly vcpu?: VcpuSample;
  /** The softirqs that wait. */
  readonly softirqs?: number;
  /** The interrupt that nobody is done with. */
  readonly inHands?: string;
  readonly stalledMs: number;
}

/** Host time that must have passed, in milliseconds. */
const PASSED_MS = DEFAULT_LIMITS.passedMs;
/** Time that an idle CPU must have executed, and the share of the time that it executed or wanted to. */
const BUSY = { ranMs: 150, wanted: 0.8 } as const;

/** A CPU that has executed so long without progress is left to the hang watch, in milliseconds of its own time. */
const STANDS_MS = DEFAULT_LIMITS.ranMs / 2;

/**
 * Xen takes an interrupt out of a guest's hands by a timer after 1 ms (Xen 4.17, arch/x86/irq.c: `irq_guest_eoi_timer_fn`). A CPU
 * that has taken so many other interrupts since has had its chance to.
 */
const CHANCES = 8;

interface Start {
  readonly sinceMs: number;
  readonly cpus: readonly IdleSample[];
}

/** The pure part: feed it samples, it says what is suspected. */
export class NeglectWatch {
  readonly #waiting = new Map<bigint, Start & { readonly sample: VcpuSample }>();
  readonly #softirqs = new Map<number, Start & { readonly left: number }>();
  readonly #busy = new Map<number, Start>();
  readonly #inHands = new Map<number, Start>();
  /** Of each CPU the first sample with the progress that it has. */
  readonly #moved = new Map<number, IdleSample>();

  /**
   * @param nowMs host-monotonic milliseconds
   * @param isAsleep whether a CPU's thread sleeps now; asked only in a suspicion
   */
  observe(
    cpus: readonly IdleSample[],
    vcpus: readonly VcpuSample[],
    nowMs: number,
    isAsleep: (cpu: number) => boolean,
  ): Neglect[] {
    for (const [cpu, now] of cpus.entries())
      if (this.#moved.get(cpu)?.progress !== now.progress) this.#moved.set(cpu, now);
    return [
      ...this.#leftWaiting(cpus, vcpus, nowMs, isAsleep),
      ...this.#softirqsLeft(cpus, nowMs),
      ...this.#idleAndBusy(cpus, nowMs),
      ...this.#leftInService(cpus, nowMs),
    ];
  }

  /** Begins anew: after a recovery, a freeze, or a suspicion that came to nothing. */
  reset(): void {
    this.#waiting.clear();
    this.#softirqs.clear();
    this.#busy.clear();
    this.#inHands.clear();
    this.#moved.clear();
  }

  #getsOn(cpu: number, { ranMs }: IdleSample): boolean {
    return ranMs - this.#moved.get(cpu)!.ranMs < STANDS_MS;
  }

  *#leftWaiting(
    cpus: readonly IdleSample[],
    vcpus: readonly VcpuSample[],
    nowMs: number,
    isAsleep: (cpu: number) => boolean,
  ): Generator<Neglect> {
    for (const sample of vcpus) {
      const before = this.#waiting.get(sample.vcpu);
      if (!sample.runnable || cpus[sample.cpu]?.idle !== true) {
        this.#waiting.delete(sample.vcpu);
      } else if (before === undefined || before.sample.since !== sample.since || before.sample.cpu !== sample.cpu) {
        this.#waiting.set(sample.vcpu, { sinceMs: nowMs, cpus, sample });
      } else {
        const stalledMs = nowMs - before.sinceMs;
        const isDone = (n: number): boolean => cpus[n]!.interrupts !== before.cpus[n]!.interrupts || isAsleep(n);
        if (stalledMs >= PASSED_MS && isAsleep(sample.cpu) && cpus.every((_, n) => isDone(n)))
          yield { kind: 'vcpu-left-waiting', cpu: sample.cpu, vcpu: sample, stalledMs };
      }
    }
  }

  *#softirqsLeft(cpus: readonly IdleSample[], nowMs: number): Generator<Neglect> {
    const { ranMs, passedMs } = DEFAULT_LIMITS;
    for (const [cpu, now] of cpus.entries()) {
      const start = this.#softirqs.get(cpu);
      const left = now.softirqs & (start?.left ?? 0);
      // While vCPUs take turns softirqs are handled. They come as fast as that where the host lets a CPU wait that holds a lock.
      if (start === undefined || left === 0 || start.cpus[cpu]!.turn !== now.turn) {
        this.#softirqs.set(cpu, { sinceMs: nowMs, cpus, left: now.softirqs });
        continue;
      }
      this.#softirqs.set(cpu, { ...start, left });
      const stalledMs = nowMs - start.sinceMs;
      if (stalledMs < passedMs || now.ranMs - start.cpus[cpu]!.ranMs < ranMs || !this.#getsOn(cpu, now)) continue;
      if (cpus.some((other, n) => isStarved(other, start.cpus[n]!, DEFAULT_LIMITS))) continue;
      yield { kind: 'softirq-left-waiting', cpu, softirqs: left, stalledMs };
    }
  }

  *#idleAndBusy(cpus: readonly IdleSample[], nowMs: number): Generator<Neglect> {
    for (const [cpu, now] of cpus.entries()) {
      const start = this.#busy.get(cpu);
      if (!now.idle || now.hasIdleWork) {
        this.#busy.delete(cpu);
        continue;
      }
      if (start === undefined || start.cpus[cpu]!.idleSince !== now.idleSince) {
        this.#busy.set(cpu, { sinceMs: nowMs, cpus });
        continue;
      }
      const passed = nowMs - start.sinceMs;
      const ran = now.ranMs - start.cpus[cpu]!.ranMs;
      const wanted = ran + now.waitedMs - start.cpus[cpu]!.waitedMs;
      // Whoever sleeps in between does what idle CPUs do: count from now on.
      if (passed >= PASSED_MS && wanted < BUSY.wanted * passed) this.#busy.delete(cpu);
      else if (passed >= PASSED_MS && ran >= BUSY.ranMs && this.#getsOn(cpu, now))
        yield { kind: 'idle-cpu-busy', cpu, stalledMs: passed };
    }
  }

  *#leftInService(cpus: readonly IdleSample[], nowMs: number): Generator<Neglect> {
    for (const [cpu, now] of cpus.entries()) {
      const start = this.#inHands.get(cpu);
      const then = start?.cpus[cpu];
      if (now.inHands === undefined) this.#inHands.delete(cpu);
      else if (start === undefined || then?.inHands !== now.inHands) this.#inHands.set(cpu, { sinceMs: nowMs, cpus });
      else {
        const stalledMs = nowMs - start.sinceMs;
        if (stalledMs >= PASSED_MS && (now.interrupts - then.interrupts) >>> 0 >= CHANCES && this.#getsOn(cpu, now))
          yield { kind: 'interrupt-left-in-service', cpu, inHands: now.inHands, stalledMs };
      }
    }
  }
}

interface CpuWords {
  readonly current: bigint;
  readonly idle: bigint;
  readonly idleSince: bigint;
  readonly tasklets: bigint;
  readonly softirqs: bigint;
  readonly interrupts: bigint;
  readonly notes: bigint;
}

/** Counts of pages to scrub, one for each memory node (Xen 4.17: MAX_NUMNODES). */
const NODES = 64;
/** How often vCPUs are listed anew, in looks. */
const LIST_EVERY = 40;

/** Reads the words of a running machine that the watch looks at. */
export class NeglectSampler {
  readonly #xen: Xen;
  readonly #cpus: readonly CpuWords[];
  readonly #state: bigint;
  readonly #flags: bigint;
  readonly #since: bigint;
  readonly #processor: bigint;
  readonly #scrubs: bigint;
  #vcpus: readonly bigint[] = [];
  #looks = 0;

  constructor(xen: Xen) {
    this.#xen = xen;
    this.#state = xen.offsetOf('vcpu', 'runstate.state');
    this.#flags = xen.offsetOf('vcpu', 'pause_flags');
    this.#since = xen.offsetOf('vcpu', 'runstate.state_entry_time');
    this.#processor = xen.offsetOf('vcpu', 'processor');
    this.#scrubs = xen.symbol('node_need_scrub');
    this.#cpus = Array.from({ length: xen.cpuCount }, (_, cpu) => {
      const idle = idleVcpu(xen, cpu);
      return {
        current: cpuStack(xen, cpu).info.at('current_vcpu'),
        idle,
        idleSince: idle + this.#since,
        softirqs: xen.irqStat(cpu).at('__softirq_pending'),
        tasklets: xen.perCpu('tasklet_work_to_do', cpu),
        interrupts: xen.perCpu('irq_count', cpu),
        notes: pendingEoiCount(xen, cpu),
      };
    });
  }

  /** @param samples what the hang watch reads of each CPU */
  cpus(samples: readonly Pick<CpuSample, 'progress' | 'ranMs' | 'waitedMs'>[]): IdleSample[] {
    const { memory } = this.#xen;
    const scrubs = memory.bytes(this.#scrubs, 8 * NODES).some((byte) => byte !== 0);
    return this.#cpus.map((words, cpu) => ({
      idle: memory.u64(words.current) === words.idle,
      idleSince: memory.u64(words.idleSince),
      hasIdleWork: scrubs || memory.u64(words.tasklets) !== 0n,
      softirqs: memory.u32(words.softirqs),
      turn: this.#turn(memory.u64(words.current)),
      interrupts: memory.u32(words.interrupts),
      inHands: memory.u8(words.notes) === 0 ? undefined : ifReadable(() => inHands(this.#xen, cpu)),
      progress: samples[cpu]!.progress,
      ranMs: samples[cpu]!.ranMs,
      waitedMs: samples[cpu]!.waitedMs,
    }));
  }

  /** vCPUs of domains. The list is read while it may change: what cannot be read is looked at the next time. */
  vcpus(): VcpuSample[] {
    if (this.#looks++ % LIST_EVERY === 0) this.#vcpus = ifReadable(() => watchedVcpus(this.#xen)) ?? [];
    return ifReadable(() => this.#vcpus.map((vcpu) => this.#vcpu(vcpu))) ?? [];
  }

  /** Of a CPU that was led astray it is the vCPU alone. */
  #turn(vcpu: bigint): string {
    return `${vcpu} ${ifReadable(() => this.#xen.memory.u64(vcpu + this.#since))}`;
  }

  /** The vCPUs are listed anew at the next look. */
  forget(): void {
    this.#looks = 0;
  }

  #vcpu(vcpu: bigint): VcpuSample {
    const { memory } = this.#xen;
    return {
      vcpu,
      runnable: isRunnable(memory.u32(vcpu + this.#state), memory.u64(vcpu + this.#flags)),
      since: memory.u64(vcpu + this.#since),
      cpu: memory.u32(vcpu + this.#processor),
    };
  }
}

/** One that runs, by its own word, does not where its CPU is idle. */
const isRunnable = (state: number, pauseFlags: bigint): boolean =>
  state === RUNSTATE.runnable ||
  state === RUNSTATE.running ||
  (state === RUNSTATE.offline && pauseFlags === VPF.parked);

/** Whether a look at the frozen machine bears out what was suspected of a CPU. */
export function isNeglected(
  xen: Xen,
  neglect: Neglect,
  { where, current }: Pick<CpuState, 'where' | 'current'>,
): boolean {
  if (neglect.softirqs !== undefined)
    return where === 'xen' && (xen.irqStat(neglect.cpu).num('__softirq_pending') & neglect.softirqs) !== 0;
  if (neglect.inHands !== undefined) return inHands(xen, neglect.cpu) === neglect.inHands;
  if (current.domain.kind !== 'idle') return false;
  if (neglect.vcpu === undefined) return where === 'xen';
  if (where !== 'halted') return false;
  const { vcpu: address, since, cpu } = neglect.vcpu;
  if (!watchedVcpus(xen).includes(address)) return false;
  const vcpu = xen.object('vcpu', address);
  const isWaiting = isRunnable(vcpu.num('runstate.state'), vcpu.u64('pause_flags')) && vcpu.num('processor') === cpu;
  return isWaiting && vcpu.u64('runstate.state_entry_time') === since;
}

/** The oldest of a CPU's interrupts that guests have in their hands, with the count of its line's. */
function inHands(xen: Xen, cpu: number): string | undefined {
  const [note] = pendingEois(xen, cpu);
  const counted = note && lineOf(xen, note.irq)?.num('rl_cnt');
  // Where Xen does not limit the rate of interrupts it does not count them, and one is like another.
  return counted === undefined || counted === 0 ? undefined : `${note!.vector} of IRQ ${note!.irq}, ${counted}`;
}

/** vCPUs that run whenever they can and a CPU is free: those of schedulers we know, without a cap on their time. */
function watchedVcpus(xen: Xen): bigint[] {
  return allVcpus(listDomains(xen))
    .filter(({ domain, object }) => domain.kind !== 'idle' && !isCapped(xen, object.u64('sched_unit')))
    .map(({ address }) => address);
}

function isCapped(xen: Xen, at: bigint): boolean {
  if (!xen.memory.isMapped(at)) return true;
  const unit = xen.object('sched_unit', at);
  const kind = schedulerKind(xen, xen.object('sched_resource', unit.u64('res')));
  // A vCPU whose unit is an idle one has been led astray: it is watched.
  return kind === 'other' || (capOf(xen, unit, kind) ?? 0) !== 0;
}
