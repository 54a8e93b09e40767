/**
 * Each CPU computes the time from its time-stamp counter: a counter and a time of the last calibration, and a scale (Xen 4.17,
 * arch/x86/time.c `get_s_time`). This is the function that Xen calls most, so damaged code is often its own, and a store instead of
 * a load goes into these words. Time that jumps sets timers that never go off, or always, and credit that never lasts.
 *
 * All CPUs were calibrated against the same clock within the last seconds, so they agree; one that is far off gets the time of the
 * others. CPUs that run guests ask for the time most, and may all be off, while few are idle: so what each was told by that clock
 * counts as well, and what the clock itself noted. What guests were told meanwhile, and what was set by such a clock, is in
 * `told-time.ts`.
 */
import { clockOf, latest, TIME_TOLERANCE } from '../../xen/clocks.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { fixBeginnings, goOnFromToldTime, pullTimers } from './told-time.js';

/**
 * Calibrated rates differ by less than a thousandth, on a machine that has its processors to itself. A host that lets one CPU of a
 * rendezvous wait has it calibrate by what it missed: 35 % and half a second were seen with nothing broken.
 */
const LARGEST_RATIO = 2;
/** Scales shift by less than this many bits. */
const LARGEST_SHIFT = 32;
/** With fewer CPUs nobody can tell who is right. */
const QUORUM = 3;

export const systemTime: Step = {
  name: 'system-time',
  removes: 'damage to what CPUs compute the time from',
  source: 'ours; Xen 4.17 arch/x86/time.c',
  run(context) {
    const { plan, xen } = context;
    const clocks = Array.from({ length: xen.cpuCount }, (_, cpu) => readClock(xen, cpu));
    const judgement = judgeClocks(clocks, xen.memory.i64(xen.symbol('stime_platform_stamp')));
    if (judgement === undefined) return;
    const { shift, factor, misscaled, at, now, off } = judgement;
    for (const cpu of misscaled) {
      const reason = `CPU ${cpu} counts as fast as the others`;
      plan.set(clockOf(xen, cpu), 'tsc_scale.shift', shift, reason);
      plan.set(clockOf(xen, cpu), 'tsc_scale.mul_frac', factor, reason);
      plan.found(`CPU ${cpu}: the scale of its time written again`);
    }
    for (const { cpu, byNs } of off) {
      for (const [field, value] of [
        ['local_tsc', at],
        ['local_stime', now],
        ['master_stime', now],
      ] as const) {
        plan.set(clockOf(xen, cpu), `stamp.${field}`, value, `CPU ${cpu} has the time that the others have`);
      }
      plan.found(`CPU ${cpu}: its time was off by ${byNs / 1_000_000n} ms`);
    }
    const ahead = off.filter(({ byNs }) => byNs > 0n);
    if (off.length > 0) dropCalibrations(context);
    if (ahead.length === 0) return;
    const jumpNs = goOnFromToldTime(context, now, latest(ahead.map(({ byNs }) => byNs)));
    fixBeginnings(context, now, jumpNs);
    for (const { cpu, byNs } of ahead) pullTimers(context, cpu, now + jumpNs, byNs - jumpNs);
  },
};

/** What CPUs noted for a calibration, and have not computed from, tells the time that they had. The next one comes in a second. */
function dropCalibrations({ plan, xen }: StepContext): void {
  const softirq = 1 << Number(xen.profile.constant('TIME_CALIBRATE_SOFTIRQ'));
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const stat = xen.irqStat(cpu);
    const pending = stat.num('__softirq_pending');
    plan.set(stat, '__softirq_pending', pending & ~softirq, `CPU ${cpu} is not calibrated by a wrong time`);
  }
}

/** What a CPU computes the time from. */
export interface Clock {
  readonly cpu: number;
  /** Nanoseconds are ticks of the counter, shifted left (or right, where negative), times a fraction of 2^32. */
  readonly shift: number;
  readonly factor: number;
  /** At the last calibration: the counter, and the time in nanoseconds. */
  readonly counter: bigint;
  readonly time: bigint;
  /** The time by the clock that it was calibrated against. */
  readonly master: bigint;
}

export interface ClockJudgement {
  /** The scale that is right. */
  readonly shift: number;
  readonly factor: number;
  /** CPUs that have another one. */
  readonly misscaled: readonly number[];
  /** The counter at the last calibration, and the right time then, in nanoseconds. */
  readonly at: bigint;
  readonly now: bigint;
  readonly off: readonly { readonly cpu: number; readonly byNs: bigint }[];
}

/**
 * The majority is right. `undefined` where that cannot be told.
 * @param platform the time that the clock noted by which all are calibrated
 */
export function judgeClocks(clocks: readonly Clock[], platform: bigint): ClockJudgement | undefined {
  if (clocks.length < QUORUM) return undefined;
  const usable = clocks.filter((clock) => Math.abs(clock.shift) <= LARGEST_SHIFT);
  if (usable.length < QUORUM) return undefined;
  const rate = median(usable.map(rateOf));
  const { shift, factor } = usable.find((clock) => rateOf(clock) === rate)!;
  const isScaled = (clock: Clock): boolean =>
    rateOf(clock) < LARGEST_RATIO * rate && rateOf(clock) > rate / LARGEST_RATIO;
  const at = median(clocks.map(({ counter }) => counter));
  const passed = ({ counter }: Clock): bigint => scaled(at - counter, shift, factor);
  const timeOf = (clock: Clock): bigint => clock.time + passed(clock);
  const now = median([...clocks.map(timeOf), ...clocks.map((clock) => clock.master + passed(clock)), platform]);
  return {
    shift,
    factor,
    misscaled: clocks.filter((clock) => !isScaled(clock)).map(({ cpu }) => cpu),
    at,
    now,
    off: clocks
      .map((clock) => ({ cpu: clock.cpu, byNs: timeOf(clock) - now }))
      .filter(({ byNs }) => byNs > TIME_TOLERANCE || byNs < -TIME_TOLERANCE),
  };
}

/** Nanoseconds in a tick. The same rate has two forms where it is about a power of two. */
const rateOf = ({ shift, factor }: Clock): number => factor * 2 ** shift;

function readClock(xen: Xen, cpu: number): Clock {
  const clock = clockOf(xen, cpu);
  return {
    cpu,
    shift: clock.num('tsc_scale.shift'),
    factor: clock.num('tsc_scale.mul_frac'),
    counter: clock.u64('stamp.local_tsc'),
    time: clock.i64('stamp.local_stime'),
    master: clock.i64('stamp.master_stime'),
  };
}

function scaled(ticks: bigint, shift: number, factor: number): bigint {
  const shifted = shift < 0 ? ticks >> BigInt(-shift) : ticks << BigInt(shift);
  return (shifted * BigInt(factor)) >> 32n;
}

function median<T extends number | bigint>(values: readonly T[]): T {
  return [...values].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))[values.length >> 1]!;
}
