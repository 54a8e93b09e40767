/**
 * Every hypervisor thread is gone, so nobody holds a lock and nobody waits for one: all of them are set free. Two
 * steps, as in the papers: locks in static data (NiLiHype's addition), and locks in heap objects (from ReHype).
 *
 * A recovery that drops only one CPU's thread could not do this; microreset can, since it drops all.
 */
import { allVcpus } from '../../xen/domains.js';
import { isHeld, type LockInstance, lockName, UNRECURSED } from '../../xen/locks.js';
import type { XenObject } from '../../xen/object.js';
import { sitesOf } from '../../xen/sites.js';
import type { Step, StepContext } from '../step.js';

export const staticLocksStep: Step = {
  name: 'static-locks',
  removes: 'locks in static and per-CPU data that abandoned threads held or waited for',
  source: 'Zhou and Tamir, DSN 2018: unlock static locks',
  run(context) {
    for (const lock of context.locks.static) if (isHeld(context.xen, lock)) release(context, lock);
  },
};

export const heapLocksStep: Step = {
  name: 'heap-locks',
  removes: 'locks in heap objects (domains, vCPUs, grant tables, event channels, run queues) still held',
  source: 'Le and Tamir, VEE 2011: release heap locks',
  run(context) {
    for (const lock of context.locks.heap) if (isHeld(context.xen, lock)) release(context, lock);
    releaseMmLocks(context);
  },
};

function release({ plan, xen }: StepContext, lock: LockInstance): void {
  plan.found(`${lockName(lock)} was held`);
  const reason = `${lockName(lock)} was held by an abandoned thread`;
  if (lock.kind === 'spinlock') {
    freeSpinlock(lock.address);
    return;
  }
  const offset = xen.offsetOf('rwlock_t', 'lock');
  plan.write(lock.address, 4, 0, reason);
  freeSpinlock(lock.address + offset);
  if (lock.kind === 'percpu-rwlock')
    plan.set(xen.object('percpu_rwlock', lock.address), 'writer_activating', 0, reason);

  function freeSpinlock(address: bigint): void {
    const head = xen.memory.u16(address);
    plan.write(address + 2n, 2, head, reason);
    plan.write(address + 4n, 2, UNRECURSED, reason);
  }
}

const mmLockSites = sitesOf<'lock' | 'rwlock'>(
  new Map([
    ['mm_lock', 'lock'],
    ['mm_rwlock', 'rwlock'],
  ]),
);

/**
 * The memory-management locks remember who holds them besides the lock itself (Xen 4.17: asm-x86/mm.h `mm_lock_t`,
 * `mm_rwlock_t`), so that one CPU may take them again.
 */
function releaseMmLocks({ plan, xen, situation }: StepContext): void {
  const sites = mmLockSites(xen.profile);
  const owners: XenObject[] = [];
  for (const domain of situation.domains) {
    if (domain.kind === 'idle') continue;
    owners.push(domain.object);
    const p2m = domain.kind === 'hvm' ? domain.object.u64('arch.p2m') : 0n;
    if (p2m !== 0n) owners.push(xen.object('p2m_domain', p2m));
  }
  for (const vcpu of allVcpus(situation.domains)) owners.push(vcpu.object);
  for (const owner of owners) {
    for (const site of sites.inStruct.get(owner.layout.name) ?? []) {
      if (site.arm !== undefined) continue;
      const lock = xen.object(site.kind === 'lock' ? 'mm_lock' : 'mm_rwlock', owner.address + BigInt(site.offset));
      if (lock.num('locker') !== -1) plan.set(lock, 'locker', -1, `${site.path} has no holder`);
      if (site.kind === 'rwlock') plan.set(lock, 'recurse_count', 0, `${site.path} has no holder`);
    }
  }
}
