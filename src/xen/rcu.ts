/** Read-copy-update (Xen 4.17, common/rcupdate.c): lists of callbacks of each CPU, and the batch that they wait for. */
import { isInMask } from './cpumask.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** In the order in which callbacks move, from the last to the first. */
export const CALLBACK_LISTS = ['done', 'cur', 'nxt'] as const;
/** More callbacks than Xen ever has waiting; beyond it a list is taken for damaged. */
export const MOST_CALLBACKS = 100_000;

/** `struct rcu_data` of every CPU, in CPU order. */
export function callbackQueues(xen: Xen): XenObject[] {
  return Array.from({ length: xen.cpuCount }, (_, cpu) => xen.object('rcu_data', xen.perCpu('rcu_data', cpu)));
}

export const batchControl = (xen: Xen): XenObject => xen.object('rcu_ctrlblk', xen.symbol('rcu_ctrlblk'));

/** What is wrong with a CPU's lists of callbacks; `undefined` when they are in order. */
export function callbackDefect(xen: Xen, queue: XenObject): string | undefined {
  const seen = new Set<bigint>();
  const next = xen.offsetOf('rcu_head', 'next');
  for (const name of CALLBACK_LISTS) {
    let link = queue.at(`${name}list`);
    for (let node = xen.memory.u64(link); node !== 0n; node = xen.memory.u64(link)) {
      if (!xen.memory.isMapped(node) || !xen.memory.isMapped(node + 15n)) return `the ${name} list leads nowhere`;
      if (seen.has(node) || seen.size > MOST_CALLBACKS) return `the ${name} list does not end`;
      if (!xen.profile.isText(xen.object('rcu_head', node).u64('func')))
        return `the ${name} list has no callback on it`;
      seen.add(node);
      link = node + next;
    }
    if (queue.u64(`${name}tail`) !== link) return `the tail of the ${name} list is not its end`;
  }
  return queue.i64('qlen') < 0n ? 'their number is negative' : undefined;
}

/** Why the current batch, or the next one, would never end; `undefined` when nothing is in its way. */
export function batchDefect(control: XenObject, queues: readonly XenObject[]): string | undefined {
  const current = control.i64('cur');
  const completed = control.i64('completed');
  const nextPending = control.num('next_pending') !== 0;
  if (completed !== current && completed !== current - 1n) return 'its numbers are in disorder';
  const isOpen = completed !== current;
  if (nextPending && !isOpen) return 'the next one was asked for, and nobody starts it';
  const mustReport = (queue: XenObject): boolean =>
    queue.i64('quiescbatch') !== current || queue.num('qs_pending') !== 0;
  const awaited = queues.filter((_, cpu) => isInMask(control.memory, control.at('cpumask'), cpu));
  if (isOpen && awaited.some((queue) => !mustReport(queue))) return 'it waits for a CPU that believes to have reported';
  if (isOpen && awaited.length === 0 && !queues.some(mustReport)) return 'all have reported, and nobody ended it';
  for (const queue of queues) {
    const waits = queue.u64('curlist') !== 0n && queue.i64('batch') > completed;
    if (!waits || queue.i64('batch') === current) continue;
    if (queue.i64('batch') !== current + 1n) return 'callbacks wait for one that is far away';
    if (!nextPending) return 'callbacks wait for the next one, which nobody asked for';
  }
  return undefined;
}
