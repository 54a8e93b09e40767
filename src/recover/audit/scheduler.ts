/** Run queues, and the lists of who belongs on them. */
import { allVcpus } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import { type Credit2Unit, credit2Units, creditQueues, runQueues, schedulerPrivates } from '../../xen/scheduler.js';
import type { StepContext } from '../step.js';
import { type AuditPart, auditList } from './part.js';

export const scheduler: AuditPart = {
  name: 'run queues',
  answersFor: ['scheduling'],
  run(context) {
    for (const data of schedulerPrivates(context.xen)) {
      if (data.layout.name === 'csched2_private') auditCredit2(context, data);
      else auditCredit(context, data);
    }
    const units = credit2Units(context.xen, context.situation.domains);
    for (const queue of runQueues(context.xen)) auditQueue(context, queue, units);
    for (const { cpu, runq } of creditQueues(context.xen)) auditList(context, runq, `run queue of CPU ${cpu}`);
  },
};

function auditCredit2(context: StepContext, data: XenObject): void {
  auditList(context, data.at('rql'), 'run queues of credit2');
  auditList(context, data.at('sdom'), 'domains of credit2');
}

/** Who waits does not run, and every unit of the queue is on its list. Units of a domain that is about to be freed are not known. */
function auditQueue(context: StepContext, queue: XenObject, units: readonly Credit2Unit[]): void {
  const { plan, situation } = context;
  const name = `run queue ${queue.num('id')}`;
  const running = new Set(situation.cpus.map(({ current }) => current.address));
  const waiting = new Set(auditList(context, queue.at('runq'), name));
  const listed = new Set(auditList(context, queue.at('svc'), `units of ${name}`));
  for (const { vcpu, data } of units) {
    const isOwn = data.u64('rqd') === queue.address;
    if (isOwn !== listed.has(data.at('rqd_elem')))
      plan.problem(`${vcpu.name} is ${isOwn ? 'not ' : ''}among the units of ${name}`);
    if (!waiting.has(data.at('runq_elem'))) continue;
    if (!isOwn) plan.problem(`${vcpu.name} would wait on ${name}, and belongs on another`);
    if (running.has(vcpu.address)) plan.problem(`${vcpu.name} would run and wait on ${name}`);
  }
}

function auditCredit(context: StepContext, data: XenObject): void {
  const { plan, xen, situation } = context;
  auditList(context, data.at('active_sdom'), 'domains that use credit');
  const domains = new Set<bigint>();
  for (const { address } of allVcpus(situation.domains)) {
    const unit = xen.object('sched_unit', xen.object('vcpu', address).u64('sched_unit'));
    const priv = unit.u64('priv');
    if (priv !== 0n) domains.add(xen.object('csched_unit', priv).u64('sdom'));
  }
  for (const { address, id } of situation.domains) {
    const own = xen.object('domain', address).u64('sched_priv');
    if (own === 0n || !domains.has(own)) continue;
    const sdom = xen.object('csched_dom', own);
    const active = auditList(context, sdom.at('active_unit'), `units of d${id} that use credit`);
    if (active.length !== sdom.num('active_unit_count')) plan.problem(`units of d${id} that use credit are miscounted`);
  }
}
