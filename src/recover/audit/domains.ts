/** Domains and their vCPUs: the lists they are on, and what is counted of them. */
import { type Domain, domainName, listDomains } from '../../xen/domains.js';
import { arrayDefect, eventArray, eventQueues, queueDefect } from '../../xen/event-queues.js';
import { pauseDefect } from '../../xen/pause-counts.js';
import type { StepContext } from '../step.js';
import type { AuditPart } from './part.js';

/** Domains are found by their list and by their number. */
export const lists: AuditPart = {
  name: 'lists of domains and vCPUs',
  run(context) {
    const { plan, xen, situation } = context;
    const listed = new Set(listDomains(xen).map(({ address }) => address));
    for (const domain of situation.domains) {
      if (!listed.has(domain.address)) plan.problem(`${domainName(domain)} is not on the list of domains`);
      auditVcpus(context, domain);
    }
  },
};

function auditVcpus({ plan, xen }: StepContext, domain: Domain): void {
  for (const [n, { address, id, name }] of domain.vcpus.entries()) {
    const vcpu = xen.object('vcpu', address);
    const unit = vcpu.u64('sched_unit');
    const wrong = [
      vcpu.num('vcpu_id') !== id && 'its number',
      vcpu.u64('domain') !== domain.address && 'its domain',
      vcpu.u64('next_in_list') !== (domain.vcpus[n + 1]?.address ?? 0n) && 'the next vCPU',
      xen.object('sched_unit', unit).u64('domain') !== domain.address && 'its scheduling unit',
    ].filter((word) => word !== false);
    for (const word of wrong) plan.problem(`${name}: ${word} would be wrong`);
  }
}

const PAGE_COUNTS = ['tot_pages', 'xenheap_pages', 'outstanding_pages'] as const;

/** Who is paused for less than nothing, or for fewer reasons than are noted, never runs again or runs when it must not. */
export const counts: AuditPart = {
  name: 'counts of domains',
  answersFor: ['pauses'],
  run({ plan, xen, situation }) {
    for (const domain of situation.domains) {
      if (domain.kind === 'idle') continue;
      const object = xen.object('domain', domain.address);
      const defect = pauseDefect(object);
      if (defect !== undefined) plan.problem(`${domainName(domain)} would be paused ${defect}`);
      for (const name of PAGE_COUNTS) {
        const count = object.num(name) | 0;
        if (count < 0) plan.problem(`${name} of ${domainName(domain)} would be ${count}`);
      }
      for (const { address, name } of domain.vcpus) {
        const ofVcpu = pauseDefect(xen.object('vcpu', address));
        if (ofVcpu !== undefined) plan.problem(`${name} would be paused ${ofVcpu}`);
      }
    }
  },
};

/** What Xen writes of event queues; the events themselves are in the hands of guests, who are not to decide about a recovery. */
export const events: AuditPart = {
  name: 'event queues',
  run({ plan, xen, situation }) {
    for (const domain of situation.domains) {
      const array = eventArray(xen, domain);
      if (array === undefined) continue;
      const defect = arrayDefect(xen, array);
      if (defect !== undefined) plan.problem(`events of ${domainName(domain)}: ${defect}`);
      const count = array.num('num_evtchns');
      for (const queue of eventQueues(xen, domain)) {
        const broken = queueDefect(queue, count);
        if (broken !== undefined) plan.problem(`event queue ${queue.priority} of ${queue.vcpu.name}: ${broken}`);
      }
    }
  },
};
