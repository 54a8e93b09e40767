/**
 * Every lock of a running Xen: found by type in globals, in per-CPU data, and in the objects on the heap that are
 * reachable from them. The places come from the profile; this file knows how to reach the objects.
 */
import { type LockKind, lockSites } from '../layout/locks.js';
import { allVcpus, type Domain } from './domains.js';
import { eventChannels, grantEntries } from './heap.js';
import type { XenObject } from './object.js';
import { runQueues, schedulerPrivates, schedulerResources } from './scheduler.js';
import type { Xen } from './xen.js';

export interface LockInstance {
  readonly kind: LockKind;
  readonly address: bigint;
  /** What it is in, for people: `d1`, `CPU 2`; empty for a global. */
  readonly owner: string;
  /** Where in it: `event_lock`, `timers.lock`. */
  readonly path: string;
}

/** For people: `heap_lock`, `d1 event_lock`. Made only when asked for, since nearly every lock is free. */
export const lockName = ({ owner, path }: LockInstance): string => (owner === '' ? path : `${owner} ${path}`);

/** Whether a lock is taken, or somebody waits for it. */
export function isHeld(xen: Xen, lock: LockInstance): boolean {
  switch (lock.kind) {
    case 'spinlock':
      return spinlockHeld(xen, lock.address);
    case 'rwlock':
      return xen.memory.u32(lock.address) !== 0 || spinlockHeld(xen, lock.address + rwlockSpin(xen));
    case 'percpu-rwlock':
      return (
        isHeld(xen, { ...lock, kind: 'rwlock' }) || xen.object('percpu_rwlock', lock.address).bool('writer_activating')
      );
  }
}

const rwlockSpin = (xen: Xen): bigint => xen.offsetOf('rwlock_t', 'lock');

/**
 * A ticket lock is free when the next ticket to be served is the next to be handed out. A recursive lock also counts
 * how often its holder took it; the CPU noted beside the count means nothing while that is zero (xen/spinlock.h).
 */
function spinlockHeld(xen: Xen, address: bigint): boolean {
  const tickets = xen.memory.u32(address);
  return (tickets & 0xffff) !== tickets >>> 16 || xen.memory.u16(address + 4n) >>> 12 !== 0;
}

/** `recurse_cpu` = no CPU (12 bits set), `recurse_cnt` = 0. */
export const UNRECURSED = 0x0fff;

const PER_CPU_PREFIX = 'per_cpu__';

/** Locks in globals and per-CPU data: NiLiHype's "static locks". */
export function* staticLocks(xen: Xen): Generator<LockInstance> {
  const sites = lockSites(xen.profile);
  for (const site of sites.globals) {
    yield { kind: site.kind, owner: '', path: site.name, address: xen.symbol(site.name) + BigInt(site.offset) };
  }
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    for (const site of sites.perCpu) {
      const address = xen.symbol(site.name) + BigInt(site.offset) + xen.perCpuOffset(cpu);
      yield { kind: site.kind, owner: `CPU ${cpu}`, path: site.name.slice(PER_CPU_PREFIX.length), address };
    }
  }
}

/** Locks in objects on Xen's heap; those of grant entries, thousands of them, only on request. */
export function* heapLocks(
  xen: Xen,
  domains: readonly Domain[],
  which: 'all' | 'no-grant-entries' = 'all',
): Generator<LockInstance> {
  for (const domain of domains) yield* domainLocks(xen, domain, which);
  for (const vcpu of allVcpus(domains)) {
    yield* locksIn(xen, vcpu.object, vcpu.name, skipOtherKind(xen, vcpu.domain));
    const fifo = vcpu.object.u64('evtchn_fifo');
    if (fifo !== 0n) yield* locksIn(xen, xen.object('evtchn_fifo_vcpu', fifo), `${vcpu.name} event queue`);
  }
  for (const resource of schedulerResources(xen)) yield* locksIn(xen, resource, 'scheduler resource');
  for (const data of schedulerPrivates(xen)) yield* locksIn(xen, data, 'scheduler');
  for (const queue of runQueues(xen)) yield* locksIn(xen, queue, 'run queue');
  yield* interruptLocks(xen);
  yield* pointedTo(xen, xen.memory.u64(xen.symbol('xenpool')), 'xmem_pool', 'xenheap pool');
}

function* domainLocks(xen: Xen, domain: Domain, which: 'all' | 'no-grant-entries'): Generator<LockInstance> {
  const name = `d${domain.id}`;
  const { object } = domain;
  yield* locksIn(xen, object, name, skipOtherKind(xen, domain));
  if (domain.kind === 'idle') return;
  yield* pointedTo(xen, object.u64('grant_table'), 'grant_table', `${name} grant table`);
  if (which === 'all') for (const entry of grantEntries(xen, domain)) yield* locksIn(xen, entry, `${name} grant entry`);
  for (const channel of eventChannels(xen, domain)) yield* locksIn(xen, channel, `${name} event channel`);
  for (const path of ['iomem_caps', 'irq_caps', 'arch.ioport_caps']) {
    yield* pointedTo(xen, object.u64(path), 'rangeset', `${name} ${path}`);
  }
  if (domain.kind !== 'hvm') return;
  yield* pointedTo(xen, object.u64('arch.p2m'), 'p2m_domain', `${name} p2m`);
  yield* pointedTo(xen, object.u64('arch.hvm.pl_time'), 'pl_time', `${name} platform timers`);
  for (let n = 0; n < 8; n++) {
    yield* pointedTo(xen, object.u64(`ioreq_server.server[${n}]`), 'ioreq_server', `${name} ioreq server`);
  }
}

function* interruptLocks(xen: Xen): Generator<LockInstance> {
  const table = xen.memory.u64(xen.symbol('irq_desc'));
  const count = xen.memory.u32(xen.symbol('nr_irqs'));
  const size = BigInt(xen.sizeOf('irq_desc'));
  for (let irq = 0; irq < count; irq++) {
    yield* locksIn(xen, xen.object('irq_desc', table + BigInt(irq) * size), `IRQ ${irq}`);
  }
}

function* pointedTo(xen: Xen, address: bigint, struct: string, name: string): Generator<LockInstance> {
  if (address !== 0n) yield* locksIn(xen, xen.object(struct, address), name);
}

/** Locks inside one structure, as its type has them. */
function* locksIn(
  xen: Xen,
  object: XenObject,
  name: string,
  skip: (path: string) => boolean = () => false,
): Generator<LockInstance> {
  for (const site of lockSites(xen.profile).inStruct.get(object.layout.name) ?? []) {
    if (skip(site.path)) continue;
    yield { kind: site.kind, owner: name, path: site.path, address: object.address + BigInt(site.offset) };
  }
}

/** The PV and HVM halves of `arch`, and in the latter AMD's and Intel's, are unions: the wrong half is other data. */
function skipOtherKind(xen: Xen, domain: Domain): (path: string) => boolean {
  if (domain.kind === 'idle') return (path) => /^arch\.(pv|hvm)\./.test(path);
  if (domain.kind === 'pv') return (path) => path.startsWith('arch.hvm.');
  const vendor = xen.memory.u64(xen.perCpu('host_vmcb', 0)) === 0n ? 'svm' : 'vmx';
  return (path) => path.startsWith('arch.pv.') || path.startsWith(`arch.hvm.${vendor}.`);
}
