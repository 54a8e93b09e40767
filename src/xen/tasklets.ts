/** Tasklets (Xen 4.17, common/tasklet.c): work that a CPU does when it gets to it. */
import { allVcpus, type Domain } from './domains.js';
import type { XenObject } from './object.js';
import { sitesOf } from './sites.js';
import type { Xen } from './xen.js';

/** The lists of those that wait, of each CPU. */
export const TASKLET_LISTS = [
  { head: 'tasklet_list', isSoftirq: false },
  { head: 'softirq_tasklet_list', isSoftirq: true },
] as const;

const taskletSites = sitesOf<'tasklet'>(new Map([['tasklet', 'tasklet']]));

/** Every tasklet that can be reached by type: in globals, per-CPU data and vCPUs. */
export function* knownTasklets(xen: Xen, domains: readonly Domain[]): Generator<XenObject> {
  const sites = taskletSites(xen.profile);
  for (const site of sites.globals) yield xen.object('tasklet', xen.symbol(site.name) + BigInt(site.offset));
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    for (const site of sites.perCpu) {
      yield xen.object('tasklet', xen.symbol(site.name) + BigInt(site.offset) + xen.perCpuOffset(cpu));
    }
  }
  for (const { address, domain } of allVcpus(domains)) {
    for (const site of sites.inStruct.get('vcpu') ?? []) {
      // The PV and HVM halves of `arch` are a union.
      if (site.arm !== undefined && site.arm !== `arch.${domain.kind}`) continue;
      yield xen.object('tasklet', address + BigInt(site.offset));
    }
  }
}
