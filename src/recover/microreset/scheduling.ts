/**
 * Scheduling metadata says the same thing in several places, and a dropped `schedule()` leaves them apart. Which vCPU
 * runs where is decided by the most reliable copy: `current` of each CPU, whose registers lie on its stack (Zhou and
 * Tamir: the per-CPU copy wins). From it follow what the CPU's scheduling resource says is running, `is_running` of
 * vCPUs and units, runstates and what is counted of them. Credit2's own flags and run queues follow from those; so do credit's (`credit.ts`).
 *
 * A unit that was taken off its queue to run and never ran is put back by Xen itself: step `lost-wakeups` wakes it.
 */
import { allVcpus, type Vcpu } from '../../xen/domains.js';
import { closedList } from '../../xen/list.js';
import type { XenObject } from '../../xen/object.js';
import { RUNSTATE, runQueues, schedulerKind, schedulerResources, VPF } from '../../xen/scheduler.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { fixCredit } from './credit.js';
import { endWait, fixCredit2Data } from './credit2.js';

/** Flags of `csched2_unit` (Xen 4.17, common/sched/credit2.c). */
const CSFLAG_SCHEDULED = 1 << 1;
const CSFLAG_DELAYED_RUNQ_ADD = 1 << 2;

export const scheduling: Step = {
  name: 'scheduling',
  removes: 'disagreement about which vCPU runs where; broken run queues',
  source: 'Zhou and Tamir, DSN 2018: consistent scheduling metadata (30 points of success there)',
  run(context) {
    const running = new Map<bigint, number>();
    for (const { cpu, current } of context.situation.cpus) running.set(current.address, cpu);
    fixResources(context);
    fixCredit2Data(context);
    for (const vcpu of allVcpus(context.situation.domains)) fixVcpu(context, vcpu, running.get(vcpu.address));
    fixRunstateCounts(context);
    for (const queue of runQueues(context.xen)) fixRunQueue(context, queue);
    fixCredit(context);
    fixUrgentCounts(context);
  },
};

/** As the plan so far leaves it. */
const unitOf = (xen: Xen, { address }: Vcpu): bigint => xen.object('vcpu', address).u64('sched_unit');

function fixResources({ plan, xen, situation }: StepContext): void {
  const resources = schedulerResources(xen);
  for (const { cpu, current } of situation.cpus) {
    const resource = resources[cpu]!;
    const idle = current.domain.kind === 'idle';
    const unit = idle ? resource.u64('sched_unit_idle') : unitOf(xen, current);
    if (idle) plan.set(current.object, 'sched_unit', unit, `${current.name} is its own unit`);
    if (plan.set(resource, 'curr', unit, `CPU ${cpu} runs ${current.name}`))
      plan.found(`CPU ${cpu} runs ${current.name}`);
    // Who finds it set takes that unit for one that has just stopped running, wherever it runs by then.
    plan.set(resource, 'prev', 0, `CPU ${cpu} comes from no other unit`);
    const rendezvous = xen.object('sched_unit', unit);
    plan.set(rendezvous, 'rendezvous_in_cnt', 0, 'no scheduling rendezvous is under way');
    plan.set(rendezvous, 'rendezvous_out_cnt', 0, 'no scheduling rendezvous is under way');
  }
}

function fixVcpu(context: StepContext, vcpu: Vcpu, cpu: number | undefined): void {
  const { plan, xen } = context;
  const address = unitOf(xen, vcpu);
  if (address === 0n) return;
  const unit = xen.object('sched_unit', address);
  const runs = cpu !== undefined;
  const word = runs ? `${vcpu.name} runs on CPU ${cpu}` : `${vcpu.name} does not run`;
  let changed = plan.set(vcpu.object, 'is_running', runs ? 1 : 0, word);
  changed = plan.set(unit, 'is_running', runs ? 1 : 0, word) || changed;
  if (runs) changed = fixPlace(context, vcpu, unit, cpu) || changed;
  changed = fixSequence(context, vcpu) || changed;
  if (!runs) changed = endMigration(context, vcpu) || changed;
  changed = fixRunstate(context, vcpu, runs) || changed;
  if (vcpu.domain.kind !== 'idle') fixCredit2(context, unit, runs);
  if (changed) plan.found(word);
}

/** The CPU that runs it is the one it is assigned to. */
function fixPlace({ plan, xen }: StepContext, vcpu: Vcpu, unit: XenObject, cpu: number): boolean {
  const resource = xen.memory.u64(xen.perCpu('sched_res', cpu));
  const moved = plan.set(vcpu.object, 'processor', cpu, `${vcpu.name} runs on CPU ${cpu}`);
  return plan.set(unit, 'res', resource, `${vcpu.name} runs on CPU ${cpu}`) || moved;
}

/** Who was to move it is gone; it stays where it is, and a scheduler that wants it elsewhere asks again. */
const endMigration = (context: StepContext, vcpu: Vcpu): boolean =>
  endWait(context, vcpu, VPF.migrating, `nobody moves ${vcpu.name} any more`);

function fixRunstate({ plan }: StepContext, vcpu: Vcpu, runs: boolean): boolean {
  const reason = `runstate of ${vcpu.name}`;
  // What a vCPU is to be when it is switched to. Of an idle one, and of one that stays where it runs, nobody writes it again before it is read.
  if (runs || vcpu.domain.kind === 'idle') plan.set(vcpu.object, 'new_state', RUNSTATE.running, reason);
  return plan.set(vcpu.object, 'runstate.state', runs ? RUNSTATE.running : stateOfWaiting(vcpu), reason);
}

/** How many vCPUs of a unit are in each state. The idle one's that ran in a guest's unit were not counted as running in its own. */
function fixRunstateCounts({ plan, xen, situation }: StepContext): void {
  const counts = new Map<bigint, number[]>();
  for (const vcpu of allVcpus(situation.domains)) {
    const unit = unitOf(xen, vcpu);
    if (!xen.memory.isMapped(unit)) continue;
    const ofUnit = counts.get(unit) ?? [0, 0, 0, 0];
    ofUnit[vcpu.object.num('runstate.state') & 3]!++;
    counts.set(unit, ofUnit);
  }
  for (const [address, states] of counts) {
    const unit = xen.object('sched_unit', address);
    for (const [state, count] of states.entries())
      plan.set(unit, `runstate_cnt[${state}]`, count, 'states of the vCPUs of a unit are counted');
  }
}

/**
 * vCPUs for whose sake a CPU is not to sleep deeply: those that poll, and a guest's unit that the idle vCPU runs in. Where the thread
 * of a CPU that slept so was dropped, nobody takes the latter back (Xen 4.17, common/sched/core.c: sched_guest_idle).
 */
function fixUrgentCounts({ plan, xen, situation, abandoned }: StepContext): void {
  for (const { cpu } of abandoned) {
    const urgent = allVcpus(situation.domains).filter(
      ({ object }) => object.bool('is_urgent') && object.num('processor') === cpu,
    );
    plan.write(xen.perCpu('sched_urgent_count', cpu), 4, urgent.length, `vCPUs that CPU ${cpu} must be awake for`);
  }
}

/** Xen 4.17.7 guards the runstate by a sequence count: while it is odd, readers wait for the writer that is gone. */
function fixSequence({ plan }: StepContext, { object, name }: Vcpu): boolean {
  if (!object.has('runstate_seq.sequence')) return false;
  const sequence = object.num('runstate_seq.sequence');
  if ((sequence & 1) === 0) return false;
  return plan.set(object, 'runstate_seq.sequence', sequence + 1, `nobody writes the runstate of ${name}`);
}

function stateOfWaiting({ object, domain }: Vcpu): number {
  const flags = object.u64('pause_flags');
  if ((flags & VPF.blocked) !== 0n) return RUNSTATE.blocked;
  const paused = object.num('pause_count') !== 0 || domain.object.num('pause_count') !== 0;
  return flags === 0n && !paused ? RUNSTATE.runnable : RUNSTATE.offline;
}

function fixCredit2({ plan, xen }: StepContext, unit: XenObject, runs: boolean): void {
  const resource = xen.object('sched_resource', unit.u64('res'));
  const data = unit.u64('priv');
  if (data === 0n || schedulerKind(xen, resource) !== 'credit2') return;
  const svc = xen.object('csched2_unit', data);
  const flags = svc.num('flags');
  const kept = flags & ~(CSFLAG_SCHEDULED | CSFLAG_DELAYED_RUNQ_ADD);
  plan.set(svc, 'flags', runs ? kept | CSFLAG_SCHEDULED : kept, runs ? 'it is scheduled' : 'it is not scheduled');
  const element = svc.at('runq_elem');
  if (runs && xen.memory.u64(element) !== element) unlink();

  /** A running unit is on no queue. */
  function unlink(): void {
    const next = svc.u64('runq_elem.next');
    const prev = svc.u64('runq_elem.prev');
    const reason = 'a running unit is on no queue';
    if (xen.memory.isMapped(next) && xen.memory.isMapped(prev)) {
      plan.write(prev, 8, next, reason);
      plan.write(next + 8n, 8, prev, reason);
    }
    plan.linkList(element, [], reason);
  }
}

/** A broken queue is emptied; every unit that belongs on it is woken by `lost-wakeups` and so put back by Xen. */
function fixRunQueue({ plan, xen, situation }: StepContext, queue: XenObject): void {
  const head = queue.at('runq');
  const { broken } = closedList(xen.memory, head);
  if (broken === undefined) return;
  plan.found(`run queue ${queue.num('id')}: ${broken}; emptied and filled again`);
  plan.linkList(head, [], 'run queue emptied');
  for (const vcpu of allVcpus(situation.domains)) {
    if (vcpu.domain.kind === 'idle') continue;
    const data = xen.object('sched_unit', unitOf(xen, vcpu)).u64('priv');
    if (data === 0n) continue;
    const svc = xen.object('csched2_unit', data);
    if (svc.u64('rqd') === queue.address) plan.linkList(svc.at('runq_elem'), [], 'run queue emptied');
  }
}
