/** What Xen has put off: timers, tasklets, callbacks of RCU. */
import { batchControl, batchDefect, callbackDefect, callbackQueues } from '../../xen/rcu.js';
import { knownTasklets, TASKLET_LISTS } from '../../xen/tasklets.js';
import { heapDefect, overflowList, timerQueue } from '../../xen/timers.js';
import { type AuditPart, auditList } from './part.js';

export const timers: AuditPart = {
  name: 'timers',
  answersFor: ['timers'],
  run(context) {
    const { plan, xen } = context;
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      const queue = timerQueue(xen, cpu);
      const defect = heapDefect(xen, queue);
      if (defect !== undefined) plan.problem(`timer heap of CPU ${cpu}: ${defect}`);
      const { broken } = overflowList(xen, queue);
      if (broken !== undefined) plan.problem(`timers of CPU ${cpu} that are on no heap: ${broken}`);
      auditList(context, queue.object.at('inactive'), `inactive timers of CPU ${cpu}`);
      if (queue.object.u64('running') !== 0n) plan.problem(`a timer of CPU ${cpu} would count as being handled`);
    }
  },
};

export const tasklets: AuditPart = {
  name: 'tasklets',
  answersFor: ['tasklets'],
  run(context) {
    const { plan, xen, situation } = context;
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      for (const { head } of TASKLET_LISTS) auditList(context, xen.perCpu(head, cpu), `${head} of CPU ${cpu}`);
    }
    for (const tasklet of knownTasklets(xen, situation.domains)) {
      if (tasklet.bool('is_running'))
        plan.problem(`the tasklet ${xen.profile.describe(tasklet.u64('func'))} would count as running`);
    }
  },
};

export const callbacks: AuditPart = {
  name: 'callbacks of RCU',
  answersFor: ['rcu'],
  run({ plan, xen }) {
    const queues = callbackQueues(xen);
    for (const [cpu, queue] of queues.entries()) {
      const defect = callbackDefect(xen, queue);
      if (defect !== undefined) plan.problem(`callbacks of CPU ${cpu}: ${defect}`);
    }
    const defect = batchDefect(batchControl(xen), queues);
    if (defect !== undefined) plan.problem(`batch of callbacks: ${defect}`);
    for (const name of ['cpu_count', 'pending_count'] as const) {
      if (xen.memory.u32(xen.symbol(name)) !== 0) plan.problem('a barrier for callbacks would still be under way');
    }
  },
};
