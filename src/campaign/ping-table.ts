/** The record of the sender outside the box as a table to read: how pings of each tenth of a second fared. Pure. */
import type { Ping } from '../testbed/outside-host.js';
import { DEADLINE_MS } from '../workload/netbench.js';

const ROW_MS = 100;

/** Something that happened meanwhile. */
export interface Mark {
  /** performance.now() */
  readonly atMs: number;
  readonly what: string;
}

/**
 * A row for each tenth of a second in which pings were sent or something happened. Times are in milliseconds from `zeroMs` on; `late`
 * pings were answered after the deadline, `none` not at all; `longest` is the longest round trip of those answered.
 */
export function pingTable(pings: readonly Ping[], marks: readonly Mark[], zeroMs: number): string[] {
  const rowOf = (timeMs: number): number => Math.floor((timeMs - zeroMs) / ROW_MS);
  const sent = grouped(pings, ({ sentAtMs }) => rowOf(sentAtMs));
  const happened = grouped(marks, ({ atMs }) => rowOf(atMs));
  const rows = [...new Set([...sent.keys(), ...happened.keys()])].sort((a, b) => a - b);
  return [
    columns(['ms', 'sent', 'answered', 'late', 'none', 'longest', '']),
    ...rows.map((row) => {
      const answers = (sent.get(row) ?? []).map(({ sentAtMs, answeredAtMs }) =>
        answeredAtMs === undefined ? undefined : answeredAtMs - sentAtMs,
      );
      const trips = answers.filter((trip) => trip !== undefined);
      const late = trips.filter((trip) => trip > DEADLINE_MS).length;
      const counts = [answers.length, trips.length - late, late, answers.length - trips.length];
      const longest = trips.length === 0 ? '-' : Math.max(...trips).toFixed(0);
      const what = (happened.get(row) ?? [])
        .map((mark) => `${mark.what} at ${(mark.atMs - zeroMs).toFixed(1)}`)
        .join(', ');
      return columns([row * ROW_MS, ...counts, longest, what]);
    }),
  ];
}

function grouped<T>(items: readonly T[], keyOf: (item: T) => number): ReadonlyMap<number, readonly T[]> {
  const groups = new Map<number, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

const columns = (cells: readonly (string | number)[]): string =>
  cells
    .map((cell, n) => (n === cells.length - 1 ? `  ${cell}` : String(cell).padStart(9)))
    .join('')
    .trimEnd();
