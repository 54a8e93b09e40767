/**
 * NetBench's verdict on one VM, from the record of the sender outside the box. Pure.
 *
 * As published (NiLiHype, DSN 2018): the VM fails if the rate of answers drops by more than 10 % in any one-second window. Here
 * that is the share of the pings *sent* in the window that were answered within a deadline, so that neither a sender nor a box
 * that its host keeps waiting is an alarm. The time from a failure to the resumption is left out: it is the outage, and reported
 * as such. So are times in which the sender held back, and pings that were on their way when one of these times began.
 */
import type { Ping } from '../testbed/outside-host.js';

/** performance.now() */
export interface Interval {
  readonly startMs: number;
  /** Absent while it lasts. */
  readonly endMs?: number;
}

export interface NetBenchMarks {
  /** From each failure (the broken CPU runs on) to the resumption of the machine, in order. */
  readonly failures: readonly Interval[];
  /** When the sender held back (`OutsideHost.holds()`). One that still lasts ends the pings: it excuses none before it. */
  readonly holds: readonly Interval[];
  /** The time of the judgement. */
  readonly nowMs: number;
}

export interface NetBenchOptions {
  /** A ping that is not answered after this long is lost, in milliseconds. Default 3000. */
  readonly deadlineMs?: number;
  /** Default 1000. */
  readonly windowMs?: number;
  /** Share of a window's pings that may be lost. Default 0.1. */
  readonly tolerance?: number;
}

export interface NetBenchVerdict {
  /** A whole window has gone by since the last resumption and is good, whatever answers come, and no other one is bad. */
  readonly ok: boolean;
  /**
   * False while answers to come decide. A verdict on *all* pings is made when the sender has stopped and none is pending; what is
   * undecided even then is a sender that could not send.
   */
  readonly decided: boolean;
  /** The window with the highest share of lost pings; absent when there is no whole window. */
  readonly worstWindow?: PingWindow;
  /** Pings that counted, and the share of them that was lost. */
  readonly counted: number;
  /** Those of them that are neither answered nor lost yet. */
  readonly pending: number;
  readonly lossShare: number;
  /**
   * The longest time without an answer around the last failure, without the time in which the sender held back: the outage that
   * it saw. Absent without a failure, and while no answer has come after it.
   */
  readonly outageMs?: number;
}

export interface PingWindow {
  /** When its first ping was sent. */
  readonly startMs: number;
  readonly sent: number;
  readonly lost: number;
}

export const DEADLINE_MS = 3000;
const WINDOW_MS = 1000;
const TOLERANCE = 0.1;
/** A window goes on until it has this many pings: with fewer, one lost ping would be 10 %. */
const FEWEST_PINGS = 20;

/** @param pings to one VM, in the order in which they were sent */
export function judgeNetBench(
  pings: readonly Ping[],
  marks: NetBenchMarks,
  options: NetBenchOptions = {},
): NetBenchVerdict {
  const { deadlineMs = DEADLINE_MS, windowMs = WINDOW_MS, tolerance = TOLERANCE } = options;
  const { failures, holds, nowMs } = marks;
  const clock = new CountedClock([...failures, ...holds]);
  const forgiving = new CountedClock([...failures, ...holds.filter(({ endMs }) => endMs !== undefined)]);
  const counted = pings.flatMap((ping) => {
    const fate = fateOf(ping, forgiving, nowMs, deadlineMs);
    return fate === undefined ? [] : [{ ...ping, fate, atMs: clock.at(ping.sentAtMs) }];
  });
  const windows = windowsOf(counted, clock.at(nowMs), windowMs);
  const isBad = (lost: number, sent: number): boolean => lost > sent * tolerance;
  const failed = windows.some(({ lost, sent }) => isBad(lost, sent));
  const resumedMs = Math.max(
    Number.NEGATIVE_INFINITY,
    ...failures.map(({ endMs }) => endMs ?? Number.POSITIVE_INFINITY),
  );
  // What matters for a good verdict: all windows up to the first one after the resumption.
  const first = windows.findIndex(({ startMs }) => startMs >= resumedMs);
  const enough = windows.slice(0, first + 1);
  const good = !failed && enough.length > 0 && !enough.some(({ lost, pending, sent }) => isBad(lost + pending, sent));
  const lost = counted.filter(({ fate }) => fate === 'lost').length;
  const worst = windows.reduce<Window | undefined>(
    (worse, window) => (worse && worse.lost / worse.sent >= window.lost / window.sent ? worse : window),
    undefined,
  );
  const outageMs = outageOf(pings, marks);
  return {
    ok: good,
    decided: failed || good,
    ...(worst === undefined ? {} : { worstWindow: { startMs: worst.startMs, sent: worst.sent, lost: worst.lost } }),
    counted: counted.length,
    pending: counted.filter(({ fate }) => fate === 'pending').length,
    lossShare: counted.length === 0 ? 0 : lost / counted.length,
    ...(outageMs === undefined ? {} : { outageMs }),
  };
}

type Fate = 'answered' | 'lost' | 'pending';

/** `undefined` for a ping that does not count. */
function fateOf(ping: Ping, forgiving: CountedClock, nowMs: number, deadlineMs: number): Fate | undefined {
  const { sentAtMs, answeredAtMs } = ping;
  const dueMs = sentAtMs + deadlineMs;
  if (forgiving.excludes(sentAtMs)) return undefined;
  if (answeredAtMs !== undefined && answeredAtMs <= dueMs) return 'answered';
  if (forgiving.excludesPartOf(sentAtMs, dueMs)) return undefined;
  return answeredAtMs === undefined && nowMs < dueMs ? 'pending' : 'lost';
}

/** Time that stands still during some intervals. */
class CountedClock {
  readonly #excluded: { readonly startMs: number; readonly endMs: number }[] = [];

  constructor(excluded: readonly Interval[]) {
    const sorted = excluded
      .map(({ startMs, endMs = Number.POSITIVE_INFINITY }) => ({ startMs, endMs }))
      .sort((a, b) => a.startMs - b.startMs);
    for (const { startMs, endMs } of sorted) {
      const last = this.#excluded.at(-1);
      if (last && startMs <= last.endMs) this.#excluded.splice(-1, 1, { ...last, endMs: Math.max(last.endMs, endMs) });
      else this.#excluded.push({ startMs, endMs });
    }
  }

  /** The time without what of the excluded intervals lies before it. */
  at(timeMs: number): number {
    let counted = timeMs;
    for (const { startMs, endMs } of this.#excluded) if (startMs < timeMs) counted -= Math.min(endMs, timeMs) - startMs;
    return counted;
  }

  excludes(timeMs: number): boolean {
    return this.#excluded.some(({ startMs, endMs }) => startMs <= timeMs && timeMs < endMs);
  }

  excludesPartOf(fromMs: number, toMs: number): boolean {
    return this.#excluded.some(({ startMs, endMs }) => startMs < toMs && endMs > fromMs);
  }
}

interface Window extends PingWindow {
  readonly pending: number;
}

interface CountedPing {
  readonly sentAtMs: number;
  readonly fate: Fate;
  /** By the counted clock. */
  readonly atMs: number;
}

/** The whole windows, one from each ping on. */
function windowsOf(pings: readonly CountedPing[], nowMs: number, windowMs: number): Window[] {
  const windows: Window[] = [];
  let lost = 0;
  let pending = 0;
  let end = 0;
  const tally = ({ fate }: CountedPing, by: 1 | -1): void => {
    if (fate === 'lost') lost += by;
    if (fate === 'pending') pending += by;
  };
  for (const [begin, first] of pings.entries()) {
    while (end < pings.length && (pings[end]!.atMs < first.atMs + windowMs || end - begin < FEWEST_PINGS))
      tally(pings[end++]!, 1);
    if (first.atMs + windowMs > nowMs || end - begin < FEWEST_PINGS) break;
    windows.push({ startMs: first.sentAtMs, sent: end - begin, lost, pending });
    tally(first, -1);
  }
  return windows;
}

function outageOf(pings: readonly Ping[], { failures, holds }: NetBenchMarks): number | undefined {
  const failure = failures.at(-1);
  if (failure?.endMs === undefined) return undefined;
  const { startMs, endMs } = failure;
  const answers = pings.flatMap(({ answeredAtMs }) => answeredAtMs ?? []).sort((a, b) => a - b);
  const after = answers.find((answer) => answer >= endMs);
  if (after === undefined) return undefined;
  const before = answers.filter((answer) => answer <= startMs).at(-1) ?? startMs;
  const during = answers.filter((answer) => answer > startMs && answer < endMs);
  const points = [before, ...during, after];
  const clock = new CountedClock(holds);
  return Math.max(...points.slice(1).map((point, i) => clock.at(point) - clock.at(points[i]!)));
}
