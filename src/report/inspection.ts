/** What a frozen Xen looks like: CPUs, domains, held locks, timers, vectors in service. Read from any view. */

import { readSituation } from '../xen/cpus.js';
import { attempt } from '../xen/damage.js';
import { allVcpus, type Domain, listDomains, type Vcpu } from '../xen/domains.js';
import type { EntryFacts } from '../xen/entry.js';
import { heapLocks, isHeld, lockName, staticLocks } from '../xen/locks.js';
import { RUNSTATE } from '../xen/scheduler.js';
import { heapDefect, inactiveList, overflowList, timerQueue } from '../xen/timers.js';
import type { Xen } from '../xen/xen.js';

/** Plain data: it is printed as it is with `--json`. */
export interface Inspection {
  readonly xen: { readonly version: string; readonly buildId: string };
  readonly cpus: readonly InspectedCpu[];
  readonly domains: readonly InspectedDomain[];
  readonly heldLocks: readonly { readonly name: string; readonly kind: string; readonly address: string }[];
  /** Locks that were looked at. */
  readonly lockCount: number;
  readonly timers: readonly InspectedTimers[];
  /** What could not be read, and why: a capsule holds the pages that the recovery read, and no others. */
  readonly missing: readonly string[];
}

export interface InspectedCpu {
  readonly cpu: number;
  readonly where: 'guest' | 'halted' | 'xen';
  readonly vcpu: string;
  readonly hypercall?: string;
  /** Innermost first, `function+offset`; empty for a CPU in a guest. */
  readonly backtrace: readonly string[];
  /** Vectors that are being handled: no interrupt of the same or a lower class reaches this CPU. */
  readonly inService: readonly number[];
  readonly requested: readonly number[];
}

export interface InspectedDomain {
  readonly id: number;
  readonly kind: 'pv' | 'hvm';
  readonly vcpus: readonly InspectedVcpu[];
}

export interface InspectedVcpu {
  readonly name: string;
  readonly state: string;
  /** The CPU that it runs on, or ran on last. */
  readonly cpu: number;
  readonly pauseCount: number;
}

export interface InspectedTimers {
  readonly cpu: number;
  readonly active: number;
  readonly overflow: number;
  readonly inactive: number;
  /** Function of the timer that expires first. */
  readonly first?: string;
  /** What is wrong with the heap. */
  readonly defect?: string;
}

/** @throws NL_UNMAPPED where what runs where cannot be told: it leads to memory that is not there. */
export function inspectXen(xen: Xen, facts: EntryFacts): Inspection {
  const domains = listDomains(xen);
  const missing: string[] = [];
  /** What a capsule has no page of, and what a damaged pointer leads to, is left out and told. */
  const look = <T>(what: string, read: () => T): T | undefined => {
    const looked = attempt(read);
    if ('value' in looked) return looked.value;
    missing.push(`${what}: ${looked.damage}`);
    return undefined;
  };
  const locks = [
    ...(look('static locks', () => staticLocks(xen)) ?? []),
    ...(look('locks of grant entries', () => heapLocks(xen, domains)) ??
      look('locks on the heap', () => heapLocks(xen, domains, { grantEntries: false })) ??
      []),
  ];
  const readable = locks.filter(({ address }) => xen.memory.isMapped(address));
  const held = readable.filter((lock) => isHeld(xen, lock));
  const unseen = new Map<string, number>();
  for (const lock of locks) {
    const name = lockName(lock);
    if (!xen.memory.isMapped(lock.address)) unseen.set(name, (unseen.get(name) ?? 0) + 1);
  }
  for (const [name, count] of unseen) missing.push(`${name}: ${count}`);
  const timers = Array.from({ length: xen.cpuCount }, (_, cpu) =>
    look(`timers of CPU ${cpu}`, () => inspectTimers(xen, cpu)),
  );
  return {
    xen: { version: xen.profile.version, buildId: xen.profile.buildId },
    cpus: inspectCpus(xen, facts, domains),
    domains: domains.flatMap((domain) =>
      domain.kind === 'idle' ? [] : [{ id: domain.id, kind: domain.kind, vcpus: allVcpus([domain]).map(inspectVcpu) }],
    ),
    heldLocks: held.map((lock) => ({
      name: lockName(lock),
      kind: lock.kind,
      address: `0x${lock.address.toString(16)}`,
    })),
    lockCount: readable.length,
    timers: timers.filter((timer) => timer !== undefined),
    missing,
  };
}

function inspectCpus(xen: Xen, facts: EntryFacts, domains: readonly Domain[]): InspectedCpu[] {
  return readSituation(xen, facts, domains).cpus.map((state) => {
    const { inService, requested } = xen.view.lapic(state.cpu);
    return {
      cpu: state.cpu,
      where: state.where,
      vcpu: state.current.name,
      ...(state.hypercall.state === 'in-progress' ? { hypercall: state.hypercall.name } : {}),
      backtrace: state.backtrace.map((entry) => entry.text),
      inService,
      requested,
    };
  });
}

const STATES = Object.fromEntries(Object.entries(RUNSTATE).map(([name, value]) => [value, name]));

function inspectVcpu({ object, name }: Vcpu): InspectedVcpu {
  const state = object.num('runstate.state');
  return {
    name,
    state: STATES[state] ?? `state ${state}`,
    cpu: object.num('processor'),
    pauseCount: object.num('pause_count.counter'),
  };
}

function inspectTimers(xen: Xen, cpu: number): InspectedTimers {
  const queue = timerQueue(xen, cpu);
  const defect = heapDefect(xen, queue);
  const first = defect === undefined ? queue.slots[0] : undefined;
  return {
    cpu,
    active: queue.size,
    overflow: overflowList(xen, queue).timers.length,
    inactive: inactiveList(xen, queue).nodes.length,
    ...(first === undefined ? {} : { first: xen.profile.describe(xen.object('timer', first).u64('function')) }),
    ...(defect === undefined ? {} : { defect }),
  };
}
