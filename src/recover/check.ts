/**
 * The audit of a plan before it is committed: reads Xen as the plan would leave it. What does not pass is a problem,
 * and a plan with problems is not committed.
 */
import { allVcpus } from '../xen/domains.js';
import { closedList } from '../xen/list.js';
import { isHeld, lockName } from '../xen/locks.js';
import { runQueues } from '../xen/scheduler.js';
import { heapDefect, timerQueue } from '../xen/timers.js';
import type { Step, StepContext } from './step.js';

export const auditPlan: Step = {
  name: 'audit',
  removes: 'nothing: it checks that the plan leaves a valid state',
  source: 'ours',
  run(context) {
    auditLocks(context);
    auditTimers(context);
    auditRunQueues(context);
    auditCpus(context);
  },
};

function auditLocks({ plan, xen, locks }: StepContext): void {
  for (const list of [locks.static, locks.heap]) {
    for (const lock of list) if (isHeld(xen, lock)) plan.problem(`${lockName(lock)} would still be held`);
  }
}

function auditTimers({ plan, xen }: StepContext): void {
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const defect = heapDefect(xen, timerQueue(xen, cpu));
    if (defect !== undefined) plan.problem(`timer heap of CPU ${cpu}: ${defect}`);
  }
}

function auditRunQueues({ plan, xen }: StepContext): void {
  for (const queue of runQueues(xen)) {
    const { broken } = closedList(xen.memory, queue.at('runq'));
    if (broken !== undefined) plan.problem(`run queue ${queue.num('id')}: ${broken}`);
  }
}

/** Every abandoned CPU has somewhere to go, and every vCPU that runs does so on one CPU. */
function auditCpus({ plan, xen, abandoned, situation }: StepContext): void {
  const placed = new Set<number>();
  for (const edit of plan.edits) if (edit.kind === 'registers' && edit.set.rip !== undefined) placed.add(edit.cpu);
  for (const { cpu } of abandoned) if (!placed.has(cpu)) plan.problem(`CPU ${cpu} has no place to go`);
  for (const vcpu of allVcpus(situation.domains)) {
    const runs = situation.cpus.some((cpu) => cpu.current.address === vcpu.address);
    if (vcpu.object.bool('is_running') && !runs) {
      const now = xen.object('vcpu', vcpu.address);
      if (now.bool('is_running')) plan.problem(`${vcpu.name} would count as running and runs nowhere`);
    }
  }
}
