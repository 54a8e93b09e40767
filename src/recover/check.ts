/**
 * The audit of a plan before it is committed: reads Xen as the plan would leave it. What does not pass is a problem,
 * and a plan with problems is not committed.
 */

import { lostItsMode } from '../x86/registers.js';
import { mapsXen } from '../xen/cpus.js';
import { allVcpus } from '../xen/domains.js';
import { closedList } from '../xen/list.js';
import { isHeld, lockName } from '../xen/locks.js';
import { PageHeap } from '../xen/page-heap.js';
import { creditQueues, runQueues, schedulerResources } from '../xen/scheduler.js';
import { heapDefect, inactiveList, timerQueue } from '../xen/timers.js';
import type { Step, StepContext } from './step.js';

export const auditPlan: Step = {
  name: 'audit',
  removes: 'nothing: it checks that the plan leaves a valid state',
  source: 'ours',
  run(context) {
    auditLocks(context);
    auditTimers(context);
    auditRunQueues(context);
    auditFreeMemory(context);
    auditCpus(context);
    auditSwitches(context);
    auditPageTables(context);
  },
};

function auditLocks({ plan, xen, locks }: StepContext): void {
  for (const list of [locks.static, locks.heap]) {
    for (const lock of list) if (isHeld(xen, lock)) plan.problem(`${lockName(lock)} would still be held`);
  }
}

function auditTimers({ plan, xen }: StepContext): void {
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const queue = timerQueue(xen, cpu);
    const defect = heapDefect(xen, queue);
    if (defect !== undefined) plan.problem(`timer heap of CPU ${cpu}: ${defect}`);
    const { broken } = inactiveList(xen, queue);
    if (broken !== undefined) plan.problem(`inactive timers of CPU ${cpu}: ${broken}`);
  }
}

function auditRunQueues({ plan, xen }: StepContext): void {
  for (const queue of runQueues(xen)) {
    const { broken } = closedList(xen.memory, queue.at('runq'));
    if (broken !== undefined) plan.problem(`run queue ${queue.num('id')}: ${broken}`);
  }
  for (const { cpu, runq } of creditQueues(xen)) {
    const { broken } = closedList(xen.memory, runq);
    if (broken !== undefined) plan.problem(`run queue of CPU ${cpu}: ${broken}`);
  }
}

/** Lists of free memory that the plan changes are closed; whether others are was seen before. */
function auditFreeMemory({ plan, xen }: StepContext): void {
  if (!plan.edits.some(({ step }) => step === 'page-allocator')) return;
  for (const { zone, order, broken } of new PageHeap(xen).read().lists) {
    if (broken !== undefined) plan.problem(`free blocks of zone ${zone}, order ${order}: ${broken}`);
  }
}

/** Every abandoned CPU has somewhere to go, and every vCPU that runs does so on one CPU. */
function auditCpus({ plan, xen, abandoned, situation }: StepContext): void {
  const placed = new Set<number>();
  for (const edit of plan.edits) if (edit.kind === 'registers' && edit.set.rip !== undefined) placed.add(edit.cpu);
  for (const { cpu, registers } of abandoned) {
    if (!placed.has(cpu)) plan.problem(`CPU ${cpu} has no place to go`);
    if (lostItsMode(registers)) plan.problem(`CPU ${cpu} does not execute 64-bit code`);
  }
  for (const vcpu of allVcpus(situation.domains)) {
    const runs = situation.cpus.some((cpu) => cpu.current.address === vcpu.address);
    if (vcpu.object.bool('is_running') && !runs) {
      const now = xen.object('vcpu', vcpu.address);
      if (now.bool('is_running')) plan.problem(`${vcpu.name} would count as running and runs nowhere`);
    }
  }
}

/** No vCPU runs twice, and no CPU comes from a unit that it would later stop wherever that runs. */
function auditSwitches({ plan, xen, situation }: StepContext): void {
  const runsOn = new Map<bigint, number>();
  for (const { cpu, current } of situation.cpus) {
    const other = runsOn.get(current.address);
    if (other !== undefined) plan.problem(`${current.name} would run on CPU ${other} and CPU ${cpu}`);
    runsOn.set(current.address, cpu);
  }
  for (const [cpu, resource] of schedulerResources(xen).entries()) {
    const runs = situation.cpus[cpu]!.where !== 'xen';
    if (!runs && resource.u64('prev') !== 0n) plan.problem(`CPU ${cpu} would still be in a switch of vCPUs`);
  }
}

/** A CPU whose page tables do not map Xen where it goes on would fault without end. */
function auditPageTables({ plan, xen, abandoned }: StepContext): void {
  for (const { cpu } of abandoned) {
    if (!mapsXen(xen, xen.view.registers(cpu).cr3))
      plan.problem(`CPU ${cpu} would run on page tables that do not map Xen`);
  }
}
