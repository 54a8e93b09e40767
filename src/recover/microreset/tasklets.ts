/**
 * A tasklet whose function was dropped stays marked as running, and Xen does not queue a running tasklet again: it would
 * never run any more (Xen 4.17, common/tasklet.c). The mark is taken back and the tasklet scheduled once more, so that
 * what it was asked for is retried. An HVM guest's event notification is such a tasklet.
 *
 * Each CPU has two lists of those that wait. One that is broken is emptied, and those that say they were on it are scheduled anew.
 */
import { closedList } from '../../xen/list.js';
import { knownTasklets, TASKLET_LISTS } from '../../xen/tasklets.js';
import type { Step, StepContext } from '../step.js';

export const tasklets: Step = {
  name: 'tasklets',
  removes: 'tasklets marked as running that no thread runs, and broken lists of waiting ones',
  source: 'ours; Xen 4.17 common/tasklet.c',
  run(context) {
    const { plan, xen, situation, abandoned } = context;
    const caller = abandoned[0];
    if (caller === undefined) return;
    for (const tasklet of knownTasklets(xen, situation.domains)) {
      if (!tasklet.bool('is_running')) continue;
      const name = xen.profile.describe(tasklet.u64('func'));
      plan.set(tasklet, 'is_running', 0, `no thread runs the tasklet ${name}`);
      if (!tasklet.bool('is_dead'))
        plan.call(caller.cpu, 'tasklet_schedule', [tasklet.address], `the tasklet ${name} runs again`);
      plan.found(`tasklet ${name} was cut off`);
    }
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      for (const queue of TASKLET_LISTS) mendQueue(context, caller.cpu, cpu, queue);
    }
  },
};

function mendQueue(
  { plan, xen, situation }: StepContext,
  caller: number,
  cpu: number,
  { head, isSoftirq }: (typeof TASKLET_LISTS)[number],
): void {
  const at = xen.perCpu(head, cpu);
  if (!xen.memory.isMapped(at)) return;
  const { broken } = closedList(xen.memory, at);
  if (broken === undefined) return;
  const reason = `${head} of CPU ${cpu}: ${broken}`;
  plan.linkList(at, [], reason);
  for (const tasklet of knownTasklets(xen, situation.domains)) {
    const waits = tasklet.num('scheduled_on') === cpu && tasklet.bool('is_softirq') === isSoftirq;
    if (!waits || tasklet.bool('is_running') || tasklet.bool('is_dead')) continue;
    plan.linkList(tasklet.at('list'), [], reason);
    plan.call(caller, 'tasklet_schedule', [tasklet.address], reason);
  }
  plan.found(reason);
}
