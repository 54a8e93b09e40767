/** What /proc tells about QEMU's process. */
import { readFileSync } from 'node:fs';

/** Linux's flag of a task that has begun to exit (include/linux/sched.h). */
const PF_EXITING = 0x4;

/**
 * Whether this process is gone or going. A process that was killed closes its sockets before it becomes a zombie, so a
 * closed socket is explained by the exiting flag, not by the state alone.
 */
export function isGone(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const state = fields[0] ?? '';
    return state === 'Z' || state === 'X' || (Number(fields[6]) & PF_EXITING) !== 0;
  } catch {
    return true;
  }
}

/** Host time of a thread, in milliseconds. */
export interface ThreadTimes {
  readonly ranMs: number;
  /** It could have run, and had no processor. */
  readonly waitedMs: number;
}

export const NEVER_RAN: ThreadTimes = { ranMs: 0, waitedMs: 0 };

/** How long a thread has executed and waited to execute (Linux: schedstat, in nanoseconds); nothing for one that is gone. */
export function threadTimes(pid: number, thread: number | string): ThreadTimes {
  try {
    const [ran, waited] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ');
    return { ranMs: Number(ran) / 1e6, waitedMs: Number(waited) / 1e6 };
  } catch {
    return NEVER_RAN;
  }
}

/** The process that a thread belongs to; `undefined` when the thread is not on this host. */
export function processOf(threadId: number): number | undefined {
  try {
    const match = /^Tgid:\s+(\d+)$/m.exec(readFileSync(`/proc/${threadId}/status`, 'latin1'));
    return match ? Number(match[1]) : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a thread sleeps: it neither executes nor waits for a processor of the host. */
export function isAsleep(pid: number, thread: number | string): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
    return stat[stat.lastIndexOf(')') + 2] === 'S';
  } catch {
    return false;
  }
}
