/**
 * Each CPU computes the time from its time-stamp counter: a counter and a time of the last calibration, and a scale (Xen 4.17,
 * arch/x86/time.c `get_s_time`). This is the function that Xen calls most, so damaged code is often its own, and a store instead of
 * a load goes into these words. Time that jumps sets timers that never go off, or always, and credit that never lasts.
 *
 * All CPUs were calibrated against the same clock within the last seconds, so they agree; one that is far off gets what one of the
 * others has.
 */
import type { Xen } from '../../xen/xen.js';
import type { Step } from '../step.js';

/**
 * Calibrated rates differ by less than a thousandth, on a machine that has its processors to itself. A host that lets one CPU of a
 * rendezvous wait has it calibrate by what it missed: 35 % and half a second were seen with nothing broken.
 */
const LARGEST_RATIO = 2;
/** In nanoseconds. */
const TIME_TOLERANCE = 5_000_000_000n;
/** Scales shift by less than this many bits. */
const LARGEST_SHIFT = 32;
/** With fewer CPUs nobody can tell who is right. */
const QUORUM = 3;

export const systemTime: Step = {
  name: 'system-time',
  removes: 'damage to what CPUs compute the time from',
  source: 'ours; Xen 4.17 arch/x86/time.c',
  run({ plan, xen }) {
    const judgement = judgeClocks(Array.from({ length: xen.cpuCount }, (_, cpu) => readClock(xen, cpu)));
    if (judgement === undefined) return;
    const { shift, factor, misscaled, right, off } = judgement;
    for (const cpu of misscaled) {
      const reason = `CPU ${cpu} counts as fast as the others`;
      plan.set(clockOf(xen, cpu), 'tsc_scale.shift', shift, reason);
      plan.set(clockOf(xen, cpu), 'tsc_scale.mul_frac', factor, reason);
      plan.found(`CPU ${cpu}: the scale of its time written again`);
    }
    for (const { cpu, byNs } of off) {
      for (const field of ['local_tsc', 'local_stime', 'master_stime'] as const) {
        const path = `stamp.${field}` as const;
        plan.set(clockOf(xen, cpu), path, clockOf(xen, right).u64(path), `CPU ${cpu} has the time of CPU ${right}`);
      }
      plan.found(`CPU ${cpu}: its time was off by ${byNs / 1_000_000n} ms`);
    }
  },
};

/** What a CPU computes the time from. */
export interface Clock {
  readonly cpu: number;
  /** Nanoseconds are ticks of the counter, shifted left (or right, where negative), times a fraction of 2^32. */
  readonly shift: number;
  readonly factor: number;
  /** At the last calibration: the counter, and the time in nanoseconds. */
  readonly counter: bigint;
  readonly time: bigint;
}

export interface ClockJudgement {
  /** The scale that is right. */
  readonly shift: number;
  readonly factor: number;
  /** CPUs that have another one. */
  readonly misscaled: readonly number[];
  /** A CPU whose time is right. */
  readonly right: number;
  readonly off: readonly { readonly cpu: number; readonly byNs: bigint }[];
}

/** The majority is right. `undefined` where that cannot be told. */
export function judgeClocks(clocks: readonly Clock[]): ClockJudgement | undefined {
  if (clocks.length < QUORUM) return undefined;
  const usable = clocks.filter((clock) => Math.abs(clock.shift) <= LARGEST_SHIFT);
  if (usable.length < QUORUM) return undefined;
  const rate = median(usable.map(rateOf));
  const { shift, factor } = usable.find((clock) => rateOf(clock) === rate)!;
  const isScaled = (clock: Clock): boolean =>
    rateOf(clock) < LARGEST_RATIO * rate && rateOf(clock) > rate / LARGEST_RATIO;
  const at = median(clocks.map(({ counter }) => counter));
  const timeOf = ({ counter, time }: Clock): bigint => time + scaled(at - counter, shift, factor);
  const now = median(clocks.map(timeOf));
  return {
    shift,
    factor,
    misscaled: clocks.filter((clock) => !isScaled(clock)).map(({ cpu }) => cpu),
    right: clocks.find((clock) => timeOf(clock) === now)!.cpu,
    off: clocks
      .map((clock) => ({ cpu: clock.cpu, byNs: timeOf(clock) - now }))
      .filter(({ byNs }) => byNs > TIME_TOLERANCE || byNs < -TIME_TOLERANCE),
  };
}

/** Nanoseconds in a tick. The same rate has two forms where it is about a power of two. */
const rateOf = ({ shift, factor }: Clock): number => factor * 2 ** shift;

const clockOf = (xen: Xen, cpu: number) => xen.object('cpu_time', xen.perCpu('cpu_time', cpu));

function readClock(xen: Xen, cpu: number): Clock {
  const clock = clockOf(xen, cpu);
  return {
    cpu,
    shift: clock.num('tsc_scale.shift'),
    factor: clock.num('tsc_scale.mul_frac'),
    counter: clock.u64('stamp.local_tsc'),
    time: clock.i64('stamp.local_stime'),
  };
}

function scaled(ticks: bigint, shift: number, factor: number): bigint {
  const shifted = shift < 0 ? ticks >> BigInt(-shift) : ticks << BigInt(shift);
  return (shifted * BigInt(factor)) >> 32n;
}

function median<T extends number | bigint>(values: readonly T[]): T {
  return [...values].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))[values.length >> 1]!;
}
