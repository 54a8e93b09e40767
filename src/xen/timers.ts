/** Xen's timers (Xen 4.17, common/timer.c): a heap, an overflow list and a list of inactive ones for each CPU. */
import type { TypeSite } from '../layout/locks.js';
import { allVcpus, type Domain } from './domains.js';
import { guestLines } from './interrupts.js';
import { closedList } from './list.js';
import type { XenObject } from './object.js';
import { schedulerResources } from './scheduler.js';
import { sitesOf } from './sites.js';
import type { Xen } from './xen.js';

/** `timer.status` (xen/timer.h). */
export const TIMER_STATUS = { invalid: 0, inactive: 1, killed: 2, inHeap: 3, inList: 4 } as const;

export interface TimerQueue {
  readonly cpu: number;
  /** `struct timers`. */
  readonly object: XenObject;
  /** Address of the heap array. Slot 0 holds size and limit, 16 bits each; timers are in slots 1 to size. */
  readonly heap: bigint;
  readonly size: number;
  readonly limit: number;
  /** Pointers in the slots 1 to size. */
  readonly slots: readonly bigint[];
}

export function timerQueue(xen: Xen, cpu: number): TimerQueue {
  const object = xen.object('timers', xen.perCpu('timers', cpu));
  const heap = object.u64('heap');
  const size = xen.memory.u16(heap);
  const limit = xen.memory.u16(heap + 2n);
  const count = Math.min(size, limit);
  const slots = Array.from({ length: count }, (_, n) => xen.memory.u64(heap + BigInt(8 * (n + 1))));
  return { cpu, object, heap, size, limit, slots };
}

/** The timer that a CPU has to handle first. */
export interface FirstTimer {
  readonly timer: bigint;
  /** By Xen's clock, in nanoseconds. */
  readonly expires: bigint;
}

/** What stands at the top of a CPU's heap; a few words are read. */
export function firstTimer(xen: Xen, cpu: number): FirstTimer | undefined {
  const heap = xen.memory.u64(xen.perCpu('timers', cpu) + xen.offsetOf('timers', 'heap'));
  if (xen.memory.u16(heap) === 0) return undefined;
  const timer = xen.memory.u64(heap + 8n);
  return { timer, expires: xen.object('timer', timer).i64('expires') };
}

/** What is wrong with a queue's heap; `undefined` when it is in order. */
export function heapDefect(xen: Xen, queue: TimerQueue): string | undefined {
  if (queue.size > queue.limit) return 'its size exceeds its limit';
  const expires: bigint[] = [];
  for (const [n, address] of queue.slots.entries()) {
    if (!xen.memory.isMapped(address)) return `slot ${n + 1} holds no timer`;
    const timer = xen.object('timer', address);
    if (timer.num('status') !== TIMER_STATUS.inHeap) return `slot ${n + 1} holds a timer that is not active`;
    if (timer.num('cpu') !== queue.cpu) return `slot ${n + 1} holds a timer of another CPU`;
    if (timer.num('heap_offset') !== n + 1) return `slot ${n + 1} and its timer disagree`;
    expires.push(timer.i64('expires'));
    if (n > 0 && expires[n]! < expires[((n + 1) >> 1) - 1]!) return `slot ${n + 1} expires before its parent`;
  }
  return undefined;
}

/** Timers on a queue's overflow list (singly linked), for which the heap has no room. */
export interface OverflowList {
  readonly timers: readonly bigint[];
  /** Address of the last link that leads to one of them, or of the list's beginning: where it ends, or is broken. */
  readonly lastLink: bigint;
  readonly broken: string | undefined;
}

export function overflowList(xen: Xen, queue: TimerQueue): OverflowList {
  const timers = new Set<bigint>();
  const next = xen.offsetOf('timer', 'list_next');
  let lastLink = queue.object.at('list');
  for (let at = xen.memory.u64(lastLink); at !== 0n; at = xen.memory.u64(lastLink)) {
    const broken = overflowDefect(xen, queue, at, timers);
    if (broken !== undefined) return { timers: [...timers], lastLink, broken };
    timers.add(at);
    lastLink = at + next;
  }
  return { timers: [...timers], lastLink, broken: undefined };
}

function overflowDefect(xen: Xen, { cpu }: TimerQueue, at: bigint, before: ReadonlySet<bigint>): string | undefined {
  if (!xen.memory.isMapped(at) || !xen.memory.isMapped(at + BigInt(xen.sizeOf('timer') - 1)))
    return 'a link leads nowhere';
  if (before.has(at) || before.size > OVERFLOW_LIMIT) return 'it runs in a circle';
  const timer = xen.object('timer', at);
  const belongs = timer.num('status') === TIMER_STATUS.inList && timer.num('cpu') === cpu;
  return belongs ? undefined : 'what is on it does not belong there';
}

const OVERFLOW_LIMIT = 10_000;

export const inactiveList = (xen: Xen, queue: TimerQueue) => closedList(xen.memory, queue.object.at('inactive'));

/**
 * Every timer that can be reached by type: in globals, per-CPU data, domains, vCPUs, scheduler resources and interrupt
 * lines of guests. Timers embedded elsewhere (virtual platform timers) are known only while they are on a queue.
 */
export function* knownTimers(xen: Xen, domains: readonly Domain[]): Generator<{ timer: XenObject; name: string }> {
  const sites = timerSites(xen.profile);
  for (const site of sites.globals) {
    yield { timer: xen.object('timer', xen.symbol(site.name) + BigInt(site.offset)), name: site.name };
  }
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    for (const site of sites.perCpu) {
      const address = xen.symbol(site.name) + BigInt(site.offset) + xen.perCpuOffset(cpu);
      yield { timer: xen.object('timer', address), name: `CPU ${cpu} ${site.name.replace('per_cpu__', '')}` };
    }
  }
  for (const resource of schedulerResources(xen)) yield* embedded(xen, resource, 'scheduler', sites.inStruct);
  for (const domain of domains) yield* embedded(xen, domain.object, `d${domain.id}`, sites.inStruct);
  for (const vcpu of allVcpus(domains)) yield* embedded(xen, vcpu.object, vcpu.name, sites.inStruct);
  for (const { irq, action } of guestLines(xen)) yield* embedded(xen, action, `IRQ ${irq}`, sites.inStruct);
}

const timerSites = sitesOf<'timer'>(new Map([['timer', 'timer']]));

function* embedded(
  xen: Xen,
  object: XenObject,
  name: string,
  inStruct: ReadonlyMap<string, readonly TypeSite<'timer'>[]>,
): Generator<{ timer: XenObject; name: string }> {
  for (const site of inStruct.get(object.layout.name) ?? []) {
    // A place inside the PV or HVM half of a union may be something else altogether.
    if (site.arm !== undefined) continue;
    yield { timer: xen.object('timer', object.address + BigInt(site.offset)), name: `${name}.${site.path}` };
  }
}
