/** Xen's scheduler: what runs where, and credit2's and credit's run queues (Xen 4.17, common/sched/). */

import { allVcpus, type Domain, type Vcpu } from './domains.js';
import { closedList } from './list.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** `struct sched_resource` of every CPU, in CPU order. */
export function schedulerResources(xen: Xen): XenObject[] {
  return Array.from({ length: xen.cpuCount }, (_, cpu) =>
    xen.object('sched_resource', xen.memory.u64(xen.perCpu('sched_res', cpu))),
  );
}

export type SchedulerKind = 'credit2' | 'credit' | 'other';

/** The scheduler of a CPU. */
export const schedulerKind = (xen: Xen, resource: XenObject): SchedulerKind =>
  kindOf(xen, xen.object('scheduler', resource.u64('scheduler')));

/** What a `struct scheduler` is, by its short name as on Xen's command line. */
export function kindOf(xen: Xen, scheduler: XenObject): SchedulerKind {
  const name = xen.memory.string(scheduler.u64('opt_name'), 32);
  return name === 'credit2' || name === 'credit' ? name : 'other';
}

/** Private data of every scheduler in use, typed; schedulers without such locks are left out. */
export function schedulerPrivates(xen: Xen): XenObject[] {
  const found = new Map<bigint, XenObject>();
  for (const resource of schedulerResources(xen)) {
    const data = xen.object('scheduler', resource.u64('scheduler')).u64('sched_data');
    if (data === 0n || found.has(data)) continue;
    const kind = schedulerKind(xen, resource);
    if (kind === 'other') continue;
    found.set(data, xen.object(kind === 'credit2' ? 'csched2_private' : 'csched_private', data));
  }
  return [...found.values()];
}

/**
 * Flags of `vcpu.pause_flags` (Xen 4.17, xen/sched.h): it waits for an event; until it has been moved to another CPU; until credit2 has
 * refilled the time of its domain, which only a capped one needs.
 */
export const VPF = { blocked: 1n << 0n, migrating: 1n << 3n, parked: 1n << 8n } as const;

/**
 * The cap on the time of a unit's domain, in percent of a CPU; 0 where there is none. `undefined` where it cannot be read, or the
 * scheduler is none that we know.
 * @param kind of the scheduler that schedules the unit
 */
export function capOf(xen: Xen, unit: XenObject, kind: SchedulerKind): number | undefined {
  if (kind === 'other') return undefined;
  const data = unit.u64('priv');
  if (data === 0n) return 0;
  const [ofUnit, ofDomain] = kind === 'credit2' ? ['csched2_unit', 'csched2_dom'] : ['csched_unit', 'csched_dom'];
  const domain = xen.object(ofUnit!, data).u64('sdom');
  if (domain === 0n) return 0;
  return xen.memory.isMapped(domain) ? xen.object(ofDomain!, domain).num('cap') : undefined;
}

/** Credit2's run queues: those on its list or, where that is broken, those that CPUs name. */
export function runQueues(xen: Xen): XenObject[] {
  return credit2Privates(xen).flatMap((data) => {
    const { nodes, broken } = closedList(xen.memory, data.at('rql'));
    if (broken !== undefined) return namedQueues(xen, data);
    const link = xen.offsetOf('csched2_runqueue_data', 'rql');
    return nodes.map((node) => xen.object('csched2_runqueue_data', node - link));
  });
}

/** `struct csched2_private` of each scheduler that is credit2. */
export const credit2Privates = (xen: Xen): XenObject[] =>
  schedulerPrivates(xen).filter(({ layout }) => layout.name === 'csched2_private');

/** CPUs that credit2 schedules with these data of its. */
export function credit2Cpus(xen: Xen, data: XenObject): number[] {
  const resources = schedulerResources(xen);
  return [...resources.keys()].filter((cpu) => {
    const scheduler = resources[cpu]!.u64('scheduler');
    return xen.object('scheduler', scheduler).u64('sched_data') === data.address;
  });
}

/** The run queues that CPUs of credit2's name twice, in their data and by their scheduler lock, in the order of their numbers. */
export function queuesNamedBy(xen: Xen, cpus: readonly number[]): XenObject[] {
  const resources = schedulerResources(xen);
  const queues = new Map<bigint, XenObject>();
  for (const cpu of cpus) {
    const own = resources[cpu]!.u64('sched_priv');
    if (!xen.memory.isMapped(own)) continue;
    const queue = xen.object('csched2_runqueue_data', xen.object('csched2_pcpu', own).u64('rqd'));
    if (xen.memory.isMapped(queue.address) && queue.at('lock') === resources[cpu]!.u64('schedule_lock'))
      queues.set(queue.address, queue);
  }
  return [...queues.values()].sort((a, b) => a.num('id') - b.num('id'));
}

/** Those of the CPUs that credit2 schedules with these data of its. */
export const namedQueues = (xen: Xen, data: XenObject): XenObject[] => queuesNamedBy(xen, credit2Cpus(xen, data));

export interface Credit2Unit {
  readonly vcpu: Vcpu;
  /** `struct csched2_unit`. */
  readonly data: XenObject;
}

/** Credit2's units of all domains that can be found; its idle units are on no list. */
export function credit2Units(xen: Xen, domains: readonly Domain[]): Credit2Unit[] {
  const own = new Set<bigint>();
  const kinds = new Map<bigint, SchedulerKind>();
  for (const resource of schedulerResources(xen)) {
    const scheduler = resource.u64('scheduler');
    const kind = kinds.get(scheduler) ?? schedulerKind(xen, resource);
    kinds.set(scheduler, kind);
    if (kind === 'credit2') own.add(resource.address);
  }
  const units = new Map<bigint, Credit2Unit>();
  for (const vcpu of allVcpus(domains)) {
    if (vcpu.domain.kind === 'idle') continue;
    const at = xen.object('vcpu', vcpu.address).u64('sched_unit');
    if (!xen.memory.isMapped(at)) continue;
    const unit = xen.object('sched_unit', at);
    const data = unit.u64('priv');
    if (xen.memory.isMapped(data) && own.has(unit.u64('res')))
      units.set(data, { vcpu, data: xen.object('csched2_unit', data) });
  }
  return [...units.values()];
}

/** A CPU's run queue under the credit scheduler. */
export interface CreditQueue {
  readonly cpu: number;
  /** `struct scheduler`. */
  readonly scheduler: XenObject;
  readonly resource: XenObject;
  /** `struct csched_pcpu`. */
  readonly data: XenObject;
  /** Head of the list. */
  readonly runq: bigint;
}

/** Credit's run queues: one for each CPU that it schedules alone (CPUs scheduled in groups are left out). */
export function creditQueues(xen: Xen): CreditQueue[] {
  const queues: CreditQueue[] = [];
  for (const [cpu, resource] of schedulerResources(xen).entries()) {
    if (schedulerKind(xen, resource) !== 'credit' || resource.num('granularity') > 1) continue;
    const scheduler = xen.object('scheduler', resource.u64('scheduler'));
    const data = xen.object('csched_pcpu', resource.u64('sched_priv'));
    queues.push({ cpu, scheduler, resource, data, runq: data.at('runq') });
  }
  return queues;
}

/** Runstates (public/vcpu.h). */
export const RUNSTATE = { running: 0, runnable: 1, blocked: 2, offline: 3 } as const;
