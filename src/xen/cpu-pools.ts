/** CPU pools: which CPUs and domains belong together, and by which scheduler (Xen 4.17, common/sched/cpupool.c). */
import type { Domain } from './domains.js';
import type { XenObject } from './object.js';
import { schedulerResources } from './scheduler.js';
import type { Xen } from './xen.js';

export interface CpuPool {
  /** `struct cpupool`. */
  readonly object: XenObject;
  /** CPUs whose scheduling resources name it. */
  readonly cpus: readonly number[];
  /** The scheduler (`struct scheduler`) that most of these name. */
  readonly scheduler: bigint | undefined;
}

/**
 * Pools that two at least of those who belong to one name, CPUs and domains. Xen's own list is not needed for it. A pool of a
 * single CPU and no domain is not found: nothing confirms that what its CPU names is one.
 */
export function cpuPools(xen: Xen, domains: readonly Domain[]): CpuPool[] {
  const resources = schedulerResources(xen);
  const named = domains.map(({ address }) => xen.object('domain', address).u64('cpupool'));
  const votes = [...resources.map((resource) => resource.u64('cpupool')), ...named].filter((at) => isWhole(xen, at));
  const pools: CpuPool[] = [];
  for (const [address, count] of tally(votes)) {
    if (count < 2) continue;
    const cpus = [...resources.keys()].filter((cpu) => resources[cpu]!.u64('cpupool') === address);
    const schedulers = cpus.map((cpu) => resources[cpu]!.u64('scheduler')).filter((at) => xen.memory.isMapped(at));
    const [scheduler] = [...tally(schedulers)].sort(([, a], [, b]) => b - a)[0] ?? [];
    pools.push({ object: xen.object('cpupool', address), cpus, scheduler });
  }
  return pools.sort((a, b) => a.object.num('cpupool_id') - b.object.num('cpupool_id'));
}

const isWhole = (xen: Xen, pool: bigint): boolean =>
  pool !== 0n && xen.memory.isMapped(pool) && xen.memory.isMapped(pool + BigInt(xen.sizeOf('cpupool') - 1));

function tally(values: readonly bigint[]): ReadonlyMap<bigint, number> {
  const counts = new Map<bigint, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}
