/**
 * Credit2's own pointers (Xen 4.17, common/sched/credit2.c): each CPU and each unit names its run queue, whose lock is the CPU's
 * scheduler lock, and each unit's data name the unit. One that names no run queue there is gets the one that has the CPU among
 * its active ones.
 */
import { allVcpus } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import { runQueues, schedulerKind, schedulerResources } from '../../xen/scheduler.js';
import type { StepContext } from '../step.js';

export function fixCredit2Pointers({ plan, xen, situation }: StepContext): void {
  const queues = runQueues(xen);
  if (queues.length === 0) return;
  const addresses = new Set(queues.map(({ address }) => address));
  const resources = schedulerResources(xen);
  for (const [cpu, resource] of resources.entries()) {
    const queue = queueOf(cpu);
    if (queue === undefined || schedulerKind(xen, resource) !== 'credit2') continue;
    const data = xen.object('csched2_pcpu', resource.u64('sched_priv'));
    const reason = `CPU ${cpu} has run queue ${queue.num('id')}`;
    const isLost = !addresses.has(data.u64('rqd'));
    if (isLost && plan.set(data, 'rqd', queue.address, reason)) plan.found(`${reason}, and named none`);
    const locks = queues.map((one) => one.at('lock'));
    if (locks.includes(resource.u64('schedule_lock'))) continue;
    if (plan.set(resource, 'schedule_lock', queue.at('lock'), reason)) plan.found(`${reason}, and not its lock`);
  }
  for (const { object, name, domain } of allVcpus(situation.domains)) {
    const unit = xen.object('sched_unit', xen.object('vcpu', object.address).u64('sched_unit'));
    if (domain.kind === 'idle' || !xen.memory.isMapped(unit.address) || unit.u64('priv') === 0n) continue;
    const cpu = resources.findIndex(({ address }) => address === unit.u64('res'));
    const queue = cpu < 0 ? undefined : queueOf(cpu);
    if (queue === undefined || schedulerKind(xen, resources[cpu]!) !== 'credit2') continue;
    const data = xen.object('csched2_unit', unit.u64('priv'));
    const named = data.u64('rqd');
    const repaired = [
      plan.set(data, 'unit', unit.address, `data of ${name}`),
      named !== 0n && !addresses.has(named) && plan.set(data, 'rqd', queue.address, `run queue of ${name}`),
    ];
    if (repaired.includes(true)) plan.found(`${name}: its unit and run queue written again`);
  }

  function queueOf(cpu: number): XenObject | undefined {
    const isActive = (queue: XenObject): boolean => {
      const word = xen.memory.u64(queue.at('active') + BigInt(8 * Math.floor(cpu / 64)));
      return ((word >> BigInt(cpu % 64)) & 1n) === 1n;
    };
    return queues.length === 1 ? queues[0] : queues.find(isActive);
  }
}
