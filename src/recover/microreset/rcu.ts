/**
 * Read-copy-update: what is unlinked is freed once no CPU can still be reading it (Xen 4.17, common/rcupdate.c). Each CPU has
 * three lists of callbacks (new, of the current batch, done), whose tails point at the last link; a word per CPU and a mask
 * say which of them have yet to pass a moment without readers. Dropped threads leave
 * - a list whose tail is not its end, or the same callbacks on two lists: a move was under way;
 * - a batch that nobody started, or that waits for a CPU which believes to have reported: nothing would ever be freed again,
 *   and no domain completely destroyed;
 * - callbacks on a stack that is about to be reused, and counts of a barrier (`rcu_barrier`) for which every CPU would wait.
 *
 * No reader survives the abandonment: a CPU outside Xen reads nothing. So whatever waits may be called at once, and a batch in
 * disorder is declared to be over instead of being continued.
 *
 * A callback that was running, or about to, is lost: Xen takes it off its list first. What it was to free stays allocated.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { XenObject } from '../../xen/object.js';
import { batchControl, batchDefect, CALLBACK_LISTS, callbackQueues, MOST_CALLBACKS } from '../../xen/rcu.js';
import { onStack } from '../../xen/stack.js';
import type { Step, StepContext } from '../step.js';

const CALLBACKS =
  /^(complete_domain_destroy|_rcu_node_free|_free_pirq_struct|sched_res_free|free_pinned_cacheattr_entry|free_msixtbl_entry|avc_node_free|_free_pg_shared_info)\b/;

export const rcu: Step = {
  name: 'rcu',
  removes: 'callback lists of RCU caught half moved, batches that would never end, barriers that nobody completes',
  source: 'ours; Xen 4.17 common/rcupdate.c',
  run(context) {
    const { xen, abandoned } = context;
    if (abandoned.length === 0) return;
    const queues = callbackQueues(xen);
    withdrawBarrier(context, queues);
    for (const [cpu, queue] of queues.entries()) repairLists(context, cpu, queue);
    leaveIdle(context, queues);
    endBatch(context, queues);
    for (const cpu of abandoned) noteLost(context, cpu);
  },
};

/** Both counts and the marks: a CPU that found the one without the other would begin a barrier of its own. */
function withdrawBarrier({ plan, xen }: StepContext, queues: readonly XenObject[]): void {
  const reason = 'nobody waits for callbacks any more';
  const counts = ['cpu_count', 'pending_count'].filter((name) => plan.write(xen.symbol(name), 4, 0, reason));
  const marks = queues.filter((queue) => plan.set(queue, 'barrier_active', 0, reason));
  if (counts.length + marks.length > 0) plan.found('a barrier for callbacks was under way: withdrawn');
}

function repairLists(context: StepContext, cpu: number, queue: XenObject): void {
  const { plan, xen } = context;
  const seen = new Set<bigint>();
  const changed: string[] = [];
  let count = 0;
  for (const name of CALLBACK_LISTS) {
    const found = walk(context, queue.at(`${name}list`), seen);
    count += found.length;
    const reason = `callbacks of CPU ${cpu}: the ${name} list`;
    let link = queue.at(`${name}list`);
    let differs = false;
    for (const node of found) {
      differs = plan.write(link, 8, node, reason) || differs;
      link = node + xen.offsetOf('rcu_head', 'next');
    }
    differs = plan.write(link, 8, 0, reason) || differs;
    differs = plan.set(queue, `${name}tail`, link, reason) || differs;
    if (differs) changed.push(name);
  }
  if (changed.length > 0) plan.found(`CPU ${cpu}: callbacks (${changed.join(', ')}) linked anew`);
  plan.set(queue, 'qlen', count, `CPU ${cpu} has ${count} callbacks`);
}

/**
 * Callbacks from `link` on that are on no list yet and can be called. One on a CPU's stack is that of a barrier, whose thread is
 * gone; behind one that is damaged nothing is believed.
 */
function walk({ xen, situation }: StepContext, head: bigint, seen: Set<bigint>): bigint[] {
  const nodes: bigint[] = [];
  for (let node = xen.memory.u64(head); node !== 0n && seen.size < MOST_CALLBACKS; ) {
    if (seen.has(node) || !xen.memory.isMapped(node) || !xen.memory.isMapped(node + 15n)) break;
    const callback = xen.object('rcu_head', node);
    if (!xen.profile.isText(callback.u64('func'))) break;
    seen.add(node);
    if (!situation.cpus.some(({ stack }) => onStack(stack, node))) nodes.push(node);
    node = callback.u64('next');
  }
  return nodes;
}

/** A CPU on its way out of the idle state says so; one that was dropped there would still count as idle, and is not. */
function leaveIdle({ plan, xen, abandoned }: StepContext, queues: readonly XenObject[]): void {
  const mask = batchControl(xen).at('idle_cpumask');
  for (const { cpu } of abandoned) {
    const reason = `CPU ${cpu} is not idle for RCU`;
    const wasIdle = plan.setInMask(mask, cpu, false, reason);
    const hadTimer = plan.set(queues[cpu]!, 'idle_timer_active', 0, reason);
    if (wasIdle || hadTimer) plan.found(`CPU ${cpu} counted as idle`);
  }
}

function endBatch({ plan, xen }: StepContext, queues: readonly XenObject[]): void {
  const control = batchControl(xen);
  const defect = batchDefect(control, queues);
  if (defect === undefined) return;
  plan.found(`batch of callbacks: ${defect}; declared to be over`);
  const reason = 'no reader of an older batch is left';
  const current = control.i64('cur');
  plan.set(control, 'completed', current, reason);
  plan.set(control, 'next_pending', 0, reason);
  plan.writeBytes(control.at('cpumask'), new Uint8Array(xen.sizeOf('cpumask')), reason);
  for (const queue of queues) {
    plan.set(queue, 'quiescbatch', current, reason);
    plan.set(queue, 'qs_pending', 0, reason);
    if (queue.u64('curlist') !== 0n) plan.set(queue, 'batch', current, reason);
  }
}

function noteLost({ plan }: StepContext, { cpu, backtrace }: CpuState): void {
  const at = backtrace.findIndex(({ text }) => text.startsWith('rcu_process_callbacks+'));
  const callback = backtrace.slice(0, Math.max(0, at)).findLast(({ text }) => CALLBACKS.test(text));
  if (callback !== undefined) plan.found(`CPU ${cpu}: the callback ${callback.text} is lost, with what it was to free`);
}
