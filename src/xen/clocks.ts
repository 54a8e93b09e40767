/** What CPUs compute the time from (Xen 4.17, arch/x86/time.c). */
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** Calibrated clocks are never so far apart, not even on a busy host; in nanoseconds. */
export const TIME_TOLERANCE = 5_000_000_000n;

/** `struct cpu_time` */
export const clockOf = (xen: Xen, cpu: number): XenObject => xen.object('cpu_time', xen.perCpu('cpu_time', cpu));

/** The latest of times; 0 where there are none. */
export function latest(times: readonly bigint[]): bigint {
  let found = 0n;
  for (const time of times) if (time > found) found = time;
  return found;
}
