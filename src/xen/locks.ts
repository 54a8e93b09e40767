/**
 * Every lock of a running Xen: found by type in globals, in per-CPU data, and in the objects on the heap that are
 * reachable from them. The places come from the profile; this file knows how to reach the objects.
 */
import { type LockKind, lockSites } from '../layout/locks.js';
import type { Profile } from '../layout/profile.js';
import { attempt } from './damage.js';
import { allVcpus, type Domain } from './domains.js';
import { eventChannelBuckets, eventChannelsIn, grantEntries } from './heap.js';
import { lineOf, lines, linesWhere, lineTable, lineTableDefect } from './interrupts.js';
import type { XenObject } from './object.js';
import { runQueues, schedulerPrivates, schedulerResources } from './scheduler.js';
import { usesSvm } from './vmcb.js';
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
      return spinlockHeld(xen, lock.address, 0);
    case 'rwlock':
      return rwlockHeld(xen, lock.address);
    case 'percpu-rwlock':
      return rwlockHeld(xen, lock.address) || xen.object('percpu_rwlock', lock.address).bool('writer_activating');
  }
}

/** For people: the tickets of a lock, and the readers or writer of one that has them. */
export function lockState(xen: Xen, { kind, address }: LockInstance): string {
  const { memory, profile } = xen;
  const at = kind === 'spinlock' ? 0 : profile.struct('rwlock_t').field('lock').offset;
  const tickets = `serves ticket ${memory.u16(address, at)}, next is ${memory.u16(address, at + 2)}`;
  const recursion = memory.u16(address, at + 4);
  const holder = recursion >>> 12 === 0 ? '' : `, taken ${recursion >>> 12} times by CPU ${recursion & UNRECURSED}`;
  return kind === 'spinlock' ? `${tickets}${holder}` : `count 0x${memory.u32(address).toString(16)}, ${tickets}`;
}

const rwlockHeld = (xen: Xen, address: bigint): boolean =>
  xen.memory.u32(address) !== 0 || spinlockHeld(xen, address, xen.profile.struct('rwlock_t').field('lock').offset);

const spinlockHeld = ({ memory }: Xen, address: bigint, offset: number): boolean =>
  isTaken(memory.u32(address, offset), memory.u16(address, offset + 4));

/**
 * A ticket lock is free when the next ticket to be served is the next to be handed out. A recursive lock also counts
 * how often its holder took it; the CPU noted beside the count means nothing while that is zero (xen/spinlock.h).
 * @param recursion the word behind the tickets; what its upper half is does not matter
 */
const isTaken = (tickets: number, recursion: number): boolean =>
  (tickets & 0xffff) !== tickets >>> 16 || ((recursion >>> 12) & 0xf) !== 0;

/** `recurse_cpu` = no CPU (12 bits set), `recurse_cnt` = 0. */
export const UNRECURSED = 0x0fff;

const PER_CPU_PREFIX = 'per_cpu__';

/** Locks in globals and per-CPU data: NiLiHype's "static locks". */
export function staticLocks(xen: Xen): readonly LockInstance[] {
  const { cpuCount, profile } = xen;
  const offsets = Array.from({ length: cpuCount }, (_, cpu) => xen.perCpuOffset(cpu));
  return remembered(xen, `static ${offsets.join()}`, () => {
    const sites = lockSites(profile);
    const locks: LockInstance[] = sites.globals.map((site) => ({
      kind: site.kind,
      owner: '',
      path: site.name,
      address: xen.symbol(site.name) + BigInt(site.offset),
    }));
    for (const [cpu, offset] of offsets.entries()) {
      for (const site of sites.perCpu) {
        const address = xen.symbol(site.name) + BigInt(site.offset) + offset;
        locks.push({ kind: site.kind, owner: `CPU ${cpu}`, path: site.name.slice(PER_CPU_PREFIX.length), address });
      }
    }
    return locks;
  });
}

/** Told whose locks are missing, and why. */
type LeftOut = (whose: string, why: string) => void;

interface Collection {
  readonly locks: LockInstance[];
  readonly xen: Xen;
  readonly leftOut: LeftOut;
}

/** Which of the locks that there are thousands of are listed. */
export interface LockChoice {
  /** Those of grant entries. Default true. */
  readonly grantEntries?: boolean;
  /** Those of interrupt lines that are free; held ones always are. Default true. */
  readonly freeLines?: boolean;
}

/**
 * Locks in objects on Xen's heap.
 * @param leftOut told what a damaged structure does not lead to any more; the others are looked at all the same
 */
export function heapLocks(
  xen: Xen,
  domains: readonly Domain[],
  { grantEntries = true, freeLines = true }: LockChoice = {},
  leftOut: LeftOut = () => undefined,
): readonly LockInstance[] {
  const locks: LockInstance[] = [];
  const into = { locks, xen, leftOut };
  const unlessDamaged = (whose: string, add: () => void): void => {
    const outcome = attempt(add);
    if ('damage' in outcome) leftOut(whose, outcome.damage);
  };
  for (const domain of domains) unlessDamaged(`d${domain.id}`, () => domainLocks(into, domain, grantEntries));
  for (const vcpu of allVcpus(domains)) {
    unlessDamaged(vcpu.name, () => {
      // As it is now: a pointer in it may have been repaired since the domains were listed.
      const object = xen.object('vcpu', vcpu.address);
      addLocksOf(locks, xen, object, vcpu.name, vcpu.domain);
      pointedTo(into, object.u64('evtchn_fifo'), 'evtchn_fifo_vcpu', `${vcpu.name} event queue`);
    });
  }
  unlessDamaged('the scheduler', () => schedulerLocks(locks, xen));
  unlessDamaged('interrupt lines', () => addAll(locks, freeLines ? lineLocks(xen) : heldLineLocks(xen)));
  const lost = lineTableDefect(xen);
  if (lost !== undefined) leftOut('interrupt lines', lost);
  pointedTo(into, xen.memory.u64(xen.symbol('xenpool')), 'xmem_pool', 'xenheap pool');
  return locks;
}

function schedulerLocks(locks: LockInstance[], xen: Xen): void {
  for (const resource of schedulerResources(xen)) addLocksOf(locks, xen, resource, 'scheduler resource');
  for (const data of schedulerPrivates(xen)) addLocksOf(locks, xen, data, 'scheduler');
  for (const queue of runQueues(xen)) addLocksOf(locks, xen, queue, 'run queue');
}

function domainLocks(into: Collection, domain: Domain, ofGrants: boolean): void {
  const { locks, xen } = into;
  const name = `d${domain.id}`;
  const object = xen.object('domain', domain.address);
  addLocksOf(locks, xen, object, name, domain);
  if (domain.kind === 'idle') return;
  pointedTo(into, object.u64('grant_table'), 'grant_table', `${name} grant table`);
  if (ofGrants) {
    for (const entry of grantEntries(xen, domain)) addAll(locks, locksIn(xen, entry, `${name} grant entry`, NONE));
  }
  for (const { address, channels } of eventChannelBuckets(xen, domain)) {
    const owner = `${name} event channel`;
    const bucket = remembered(xen, `${owner} ${address} ${channels}`, () =>
      eventChannelsIn(xen, address, channels).flatMap((channel) => locksIn(xen, channel, owner, NONE)),
    );
    addAll(locks, bucket);
  }
  for (const path of ['iomem_caps', 'irq_caps', 'arch.ioport_caps']) {
    pointedTo(into, object.u64(path), 'rangeset', `${name} ${path}`);
  }
  if (domain.kind !== 'hvm') return;
  pointedTo(into, object.u64('arch.p2m'), 'p2m_domain', `${name} p2m`);
  pointedTo(into, object.u64('arch.hvm.pl_time'), 'pl_time', `${name} platform timers`);
  for (let n = 0; n < 8; n++) {
    pointedTo(into, object.u64(`ioreq_server.server[${n}]`), 'ioreq_server', `${name} ioreq server`);
  }
}

function lineLocks(xen: Xen): readonly LockInstance[] {
  const { table, count } = lineTable(xen) ?? { table: 0n, count: 0 };
  return remembered(xen, `irq_desc ${table} ${count}`, () =>
    [...lines(xen)].flatMap(({ irq, line }) => locksIn(xen, line, `IRQ ${irq}`, NONE)),
  );
}

/** Locks of interrupt lines that are held. */
export const heldLineLocks = (xen: Xen): LockInstance[] =>
  linesWhere(xen, 'lock', isTaken).flatMap((irq) => locksIn(xen, lineOf(xen, irq)!, `IRQ ${irq}`, NONE));

function pointedTo({ locks, xen, leftOut }: Collection, address: bigint, struct: string, name: string): void {
  if (address === 0n) return;
  if (xen.memory.isMapped(address)) addLocksOf(locks, xen, xen.object(struct, address), name);
  else leftOut(name, 'the pointer to it leads nowhere');
}

/** Locks of one structure. @param domain whose it is, where the structure has a half for each kind of domain */
function addLocksOf(locks: LockInstance[], xen: Xen, object: XenObject, name: string, domain?: Domain): void {
  const half = domain === undefined ? '' : halfOf(xen, domain);
  const list = remembered(xen, `${object.layout.name} ${object.address} ${name} ${half}`, () =>
    locksIn(xen, object, name, half === '' ? NONE : (path) => isOtherHalf(path, half)),
  );
  addAll(locks, list);
}

function addAll(locks: LockInstance[], more: readonly LockInstance[]): void {
  for (const lock of more) locks.push(lock);
}

/** Locks inside one structure, as its type has them. */
function locksIn(xen: Xen, object: XenObject, name: string, skip: (path: string) => boolean): LockInstance[] {
  const sites = lockSites(xen.profile).inStruct.get(object.layout.name) ?? [];
  return sites
    .filter((site) => !skip(site.path))
    .map((site) => ({ kind: site.kind, owner: name, path: site.path, address: object.address + BigInt(site.offset) }));
}

const NONE = (): boolean => false;

/** Lists of locks follow from where a structure is and what it is, so they are made once: nearly all are as they were. */
const lists = new WeakMap<Profile, Map<string, readonly LockInstance[]>>();
/** Far more than the structures of a box; when VMs come and go for days, we begin anew. */
const REMEMBERED_LIMIT = 20_000;

function remembered({ profile }: Xen, key: string, make: () => readonly LockInstance[]): readonly LockInstance[] {
  let known = lists.get(profile);
  if (known === undefined || known.size > REMEMBERED_LIMIT) {
    known = new Map();
    lists.set(profile, known);
  }
  let list = known.get(key);
  if (list === undefined) {
    list = make();
    known.set(key, list);
  }
  return list;
}

/** Which half of the unions in `arch` is in use: PV's or HVM's, and of the latter AMD's or Intel's. */
type Half = 'none' | 'pv' | 'svm' | 'vmx';

function halfOf(xen: Xen, { kind }: Domain): Half {
  if (kind !== 'hvm') return kind === 'pv' ? 'pv' : 'none';
  return usesSvm(xen) ? 'svm' : 'vmx';
}

/** The half that is not in use is other data. */
function isOtherHalf(path: string, half: Half): boolean {
  switch (half) {
    case 'none':
      return /^arch\.(pv|hvm)\./.test(path);
    case 'pv':
      return path.startsWith('arch.hvm.');
    case 'svm':
    case 'vmx':
      return path.startsWith('arch.pv.') || path.startsWith(`arch.hvm.${half === 'svm' ? 'vmx' : 'svm'}.`);
  }
}
