/**
 * A tasklet whose function was dropped stays marked as running, and Xen does not queue a running tasklet again: it would
 * never run any more (Xen 4.17, common/tasklet.c). The mark is taken back and the tasklet scheduled once more, so that
 * what it was asked for is retried. An HVM guest's event notification is such a tasklet.
 */
import { allVcpus, type Domain } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import { sitesOf } from '../../xen/sites.js';
import type { Xen } from '../../xen/xen.js';
import type { Step } from '../step.js';

const taskletSites = sitesOf<'tasklet'>(new Map([['tasklet', 'tasklet']]));

export const tasklets: Step = {
  name: 'tasklets',
  removes: 'tasklets marked as running that no thread runs',
  source: 'ours; Xen 4.17 common/tasklet.c',
  run({ plan, xen, situation, abandoned }) {
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
  },
};

function* knownTasklets(xen: Xen, domains: readonly Domain[]): Generator<XenObject> {
  const sites = taskletSites(xen.profile);
  for (const site of sites.globals) yield xen.object('tasklet', xen.symbol(site.name) + BigInt(site.offset));
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    for (const site of sites.perCpu) {
      yield xen.object('tasklet', xen.symbol(site.name) + BigInt(site.offset) + xen.perCpuOffset(cpu));
    }
  }
  for (const { object, domain } of allVcpus(domains)) {
    for (const site of sites.inStruct.get('vcpu') ?? []) {
      // The PV and HVM halves of `arch` are a union.
      if (site.arm !== undefined && site.arm !== `arch.${domain.kind}`) continue;
      yield xen.object('tasklet', object.address + BigInt(site.offset));
    }
  }
}
