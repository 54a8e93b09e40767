/** What a frozen Xen looks like: CPUs, domains, held locks, timers, vectors in service. Read from any view. */

import { readSituation } from '../xen/cpus.js';
import { allVcpus, type Domain, listDomains, type Vcpu } from '../xen/domains.js';
import type { EntryFacts } from '../xen/entry.js';
import { heapLocks, isHeld, lockName, staticLocks } from '../xen/locks.js';
import { RUNSTATE } from '../xen/scheduler.js';
import { heapDefect, inactiveList, overflowTimers, timerQueue } from '../xen/timers.js';
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

/** @throws NL_UNMAPPED where a structure leads to memory that is not there. */
export function inspectXen(xen: Xen, facts: EntryFacts): Inspection {
  const domains = listDomains(xen);
  const locks = [...staticLocks(xen), ...heapLocks(xen, domains)];
  return {
    xen: { version: xen.profile.version, buildId: xen.profile.buildId },
    cpus: inspectCpus(xen, facts, domains),
    domains: domains.flatMap((domain) =>
      domain.kind === 'idle' ? [] : [{ id: domain.id, kind: domain.kind, vcpus: allVcpus([domain]).map(inspectVcpu) }],
    ),
    heldLocks: locks
      .filter((lock) => isHeld(xen, lock))
      .map((lock) => ({ name: lockName(lock), kind: lock.kind, address: `0x${lock.address.toString(16)}` })),
    lockCount: locks.length,
    timers: Array.from({ length: xen.cpuCount }, (_, cpu) => inspectTimers(xen, cpu)),
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
    overflow: overflowTimers(xen, queue).length,
    inactive: inactiveList(xen, queue).nodes.length,
    ...(first === undefined ? {} : { first: xen.profile.describe(xen.object('timer', first).u64('function')) }),
    ...(defect === undefined ? {} : { defect }),
  };
}
