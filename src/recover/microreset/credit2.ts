/**
 * Credit2's own pointers (Xen 4.17, common/sched/credit2.c): each CPU and each unit names its run queue, whose lock is the CPU's
 * scheduler lock, and each unit's data name the unit. One that names no run queue there is gets the one that has the CPU among
 * its active ones.
 *
 * The list of queues, and the masks of CPUs that each is for and of those that credit2 has taken over, follow from what the CPUs name.
 * A CPU that is missing in a mask is a bug check of Xen's whenever it schedules.
 *
 * Who belongs to a queue is on a list of it, from which a unit that changes its queue is taken off for a moment.
 *
 * A domain without a cap on its time has an endless budget. One that is not endless is used up, and then its units are parked for ever:
 * nobody refills it.
 */
import { isInMask } from '../../xen/cpumask.js';
import { allVcpus, type Vcpu } from '../../xen/domains.js';
import { closedList } from '../../xen/list.js';
import type { XenObject } from '../../xen/object.js';
import {
  capOf,
  credit2Cpus,
  credit2Privates,
  credit2Units,
  namedQueues,
  runQueues,
  schedulerKind,
  schedulerResources,
  VPF,
} from '../../xen/scheduler.js';
import type { StepContext } from '../step.js';
import { maskOf } from './cpu-pools.js';

/** `STIME_MAX` */
const ENDLESS = 0x7fff_ffff_ffff_ffffn;

export function fixCredit2Data(context: StepContext): void {
  const { plan, xen, situation } = context;
  for (const data of credit2Privates(xen)) fixQueueList(context, data);
  const queues = runQueues(xen);
  if (queues.length === 0) return;
  const addresses = new Set(queues.map(({ address }) => address));
  const locks = new Set(queues.map((queue) => queue.at('lock')));
  const resources = schedulerResources(xen);
  for (const [cpu, resource] of resources.entries()) {
    const queue = queueOf(cpu);
    if (queue === undefined || schedulerKind(xen, resource) !== 'credit2') continue;
    const data = xen.object('csched2_pcpu', resource.u64('sched_priv'));
    const reason = `CPU ${cpu} has run queue ${queue.num('id')}`;
    const isLost = !addresses.has(data.u64('rqd'));
    if (isLost && plan.set(data, 'rqd', queue.address, reason)) plan.found(`${reason}, and named none`);
    if (locks.has(resource.u64('schedule_lock'))) continue;
    if (plan.set(resource, 'schedule_lock', queue.at('lock'), reason)) plan.found(`${reason}, and not its lock`);
  }
  for (const data of credit2Privates(xen)) fixMasks(context, data);
  for (const vcpu of allVcpus(situation.domains)) {
    if (vcpu.domain.kind === 'idle') continue;
    const unit = vcpu.object.u64('sched_unit');
    fixUnit(unit, vcpu.name);
    unpark(vcpu, unit);
  }
  for (const [cpu, resource] of resources.entries()) fixUnit(resource.u64('sched_unit_idle'), `d[IDLE]v${cpu}`);
  for (const queue of queues) fixMembers(queue);

  function fixUnit(address: bigint, name: string): void {
    if (!xen.memory.isMapped(address)) return;
    const unit = xen.object('sched_unit', address);
    const cpu = resources.findIndex((resource) => resource.address === unit.u64('res'));
    const queue = cpu < 0 ? undefined : queueOf(cpu);
    if (queue === undefined || schedulerKind(xen, resources[cpu]!) !== 'credit2' || unit.u64('priv') === 0n) return;
    const data = xen.object('csched2_unit', unit.u64('priv'));
    const named = data.u64('rqd');
    const repaired = [
      plan.set(data, 'unit', address, `data of ${name}`),
      named !== 0n && !addresses.has(named) && plan.set(data, 'rqd', queue.address, `run queue of ${name}`),
      capOf(xen, unit, 'credit2') === 0 && plan.set(data, 'budget', ENDLESS, `time of ${name} is not limited`),
    ];
    if (repaired.includes(true)) plan.found(`${name}: its unit, run queue or budget written again`);
  }

  /** Whoever has no cap on its time. Those of the domain that are parked are on a list. */
  function unpark(vcpu: Vcpu, address: bigint): void {
    const unit = xen.object('sched_unit', address);
    if (!xen.memory.isMapped(address) || capOf(xen, unit, 'credit2') !== 0 || unit.u64('priv') === 0n) return;
    const reason = `${vcpu.name} has all the time it wants`;
    if (!endWait(context, vcpu, VPF.parked, reason)) return;
    const data = xen.object('csched2_unit', unit.u64('priv'));
    plan.linkList(data.at('parked_elem'), [], reason);
    if (xen.memory.isMapped(data.u64('sdom')))
      plan.linkList(xen.object('csched2_dom', data.u64('sdom')).at('parked_units'), [], reason);
    plan.found(`${vcpu.name}: no longer waits for time`);
  }

  /** Who belongs to a queue is on its list. Others that can be reached stay: their domain may be about to be freed. */
  function fixMembers(queue: XenObject): void {
    const { nodes, broken } = closedList(xen.memory, queue.at('svc'));
    const units = credit2Units(xen, situation.domains).map(({ data }) => data);
    const own = units.filter((data) => data.u64('rqd') === queue.address).map((data) => data.at('rqd_elem'));
    const known = new Set(units.map((data) => data.at('rqd_elem')));
    const listed = nodes.filter((node) => known.has(node));
    if (broken === undefined && listed.length === own.length && own.every((node) => listed.includes(node))) return;
    const what = `units of run queue ${queue.num('id')}`;
    plan.linkList(queue.at('svc'), [...nodes.filter((node) => !known.has(node)), ...own], `${what} linked anew`);
    plan.found(`${what}: ${broken ?? 'others than those listed'}; linked anew`);
  }

  function queueOf(cpu: number): XenObject | undefined {
    return queues.length === 1 ? queues[0] : queues.find((queue) => isInMask(xen.memory, queue.at('active'), cpu));
  }
}

/** A vCPU does not wait for that any more. @returns whether it did */
export const endWait = ({ plan }: StepContext, { object }: Vcpu, flag: bigint, reason: string): boolean =>
  plan.set(object, 'pause_flags', object.u64('pause_flags') & ~flag, reason);

/** Credit2 counts its queues. Where that is more than CPUs name, a list of these would lose some, and the audit refuses the broken one. */
function fixQueueList({ plan, xen }: StepContext, data: XenObject): void {
  const { broken } = closedList(xen.memory, data.at('rql'));
  if (broken === undefined) return;
  const queues = namedQueues(xen, data);
  const counted = data.num('active_queues');
  if (!isOwn(data, queues) || (queues.length < counted && counted <= xen.cpuCount)) return;
  plan.linkList(
    data.at('rql'),
    queues.map((queue) => queue.at('rql')),
    'run queues of credit2 linked anew',
  );
  plan.found(`run queues of credit2: ${broken}; linked anew`);
}

/** Whether the head of the list and one of the queues still name each other, from one side at least: only then are these credit2's data. */
function isOwn(data: XenObject, queues: readonly XenObject[]): boolean {
  const head = data.at('rql');
  const ends = [data.u64('rql.next'), data.u64('rql.prev')];
  return queues.some(
    (queue) => ends.includes(queue.at('rql')) || [queue.u64('rql.next'), queue.u64('rql.prev')].includes(head),
  );
}

function fixMasks({ plan, xen }: StepContext, data: XenObject): void {
  const queues = namedQueues(xen, data);
  if (!isOwn(data, queues)) return;
  const resources = schedulerResources(xen);
  const cpus = credit2Cpus(xen, data);
  const queueOf = (cpu: number): bigint => xen.object('csched2_pcpu', resources[cpu]!.u64('sched_priv')).u64('rqd');
  if (plan.writeBytes(data.at('initialized'), maskOf(xen, cpus), 'CPUs that credit2 schedules'))
    plan.found('CPUs that credit2 schedules: written again');
  for (const queue of queues) {
    const own = cpus.filter((cpu) => queueOf(cpu) === queue.address);
    const what = `CPUs of run queue ${queue.num('id')}`;
    if (plan.writeBytes(queue.at('active'), maskOf(xen, own), what)) plan.found(`${what}: written again`);
  }
}
