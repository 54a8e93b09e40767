/**
 * Timer queues. Three things can be wrong after an abandonment:
 * - a heap or list is half updated (the failure hit `add_to_heap`, `remove_from_heap`, ...): the heap is built anew
 *   from the timers that are on it, in it by their own word, or in between two states;
 * - a timer was taken off because its handler was running, and the handler that would have set it again was dropped:
 *   it is put back (NiLiHype: re-activate recurring timers);
 * - the recurring time calibration was dropped between its two halves: it is set again.
 *
 * A guest sets its timer again when it is interrupted for it, and not before. Damaged code in `execute_timer` took timers off on every
 * CPU, called no handler and failed on its return, and the guests slept for ever. So of a CPU that was dropped while it handled timers
 * those of guests are put back that came due a short while ago and were not set since: a guest that had its interrupt gets one more, finds
 * nothing due, and says when the next is to come.
 *
 * A guest that damaged code gave a time far away (38 hours, once) is interrupted at once, and sets its timer anew.
 *
 * A vCPU's timers are never set for an idle vCPU. One that is on a heap all the same got there by damage, and its handler fails each
 * time it is called: the idle domain has nothing of what it asks for.
 *
 * Raising the timer softirq, which makes Xen program the APIC timer again, is the step `softirqs`.
 */

import { clockOf } from '../../xen/clocks.js';
import { allVcpus, type Domain } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import {
  heapDefect,
  inactiveList,
  knownTimers,
  overflowList,
  TIMER_STATUS,
  type TimerQueue,
  timerQueue,
} from '../../xen/timers.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { mendVirtualTimers } from './virtual-timers.js';

/** Timers that Xen always keeps set, whichever CPU they are on (Xen 4.17, arch/x86/time.c). */
const ALWAYS_SET = ['calibration_timer'] as const;

export const timers: Step = {
  name: 'timers',
  removes: 'timer heaps caught half updated, and recurring timers whose handler was cut off',
  source: 'Zhou and Tamir, DSN 2018: re-activate recurring timers; heap repair is ours (their open problem 2)',
  run(context) {
    const known = timersByCpu(context);
    const { domains } = context.situation;
    const kinds = { unused: unusedTimers(domains), ofGuests: guestTimers(domains) };
    for (let cpu = 0; cpu < context.xen.cpuCount; cpu++) repairQueue(context, cpu, known.get(cpu) ?? [], kinds);
    mendVirtualTimers(context);
  },
};

/** Nanoseconds before a CPU's clock was calibrated, which is done once a second. */
const LATELY = 1_000_000_000n;

/** Nanoseconds: no guest sets its timer so late, and one that did sets it again. Linux sets it 4.3 s ahead at the most. */
const FAR = 600_000_000_000n;

const OF_GUESTS = ['periodic_timer', 'singleshot_timer', 'poll_timer'] as const;

/** Those by which guests are interrupted when they asked for it. */
function guestTimers(domains: readonly Domain[]): ReadonlySet<bigint> {
  const vcpus = allVcpus(domains).filter(
    ({ domain, object }) => domain.kind !== 'idle' && object.bool('is_initialised'),
  );
  return new Set(vcpus.map(({ object }) => object.at('singleshot_timer')));
}

/** Timers that idle vCPUs have since all vCPUs have them. */
function unusedTimers(domains: readonly Domain[]): ReadonlySet<bigint> {
  const idle = allVcpus(domains.filter(({ kind }) => kind === 'idle'));
  return new Set(idle.flatMap(({ object }) => OF_GUESTS.map((field) => object.at(field))));
}

type KnownTimer = { readonly timer: XenObject; readonly name: string };

/** Every timer that can be reached, by the CPU that it says it is on. */
function timersByCpu({ xen, situation }: StepContext): ReadonlyMap<number, KnownTimer[]> {
  const byCpu = new Map<number, KnownTimer[]>();
  for (const known of knownTimers(xen, situation.domains)) {
    const cpu = known.timer.num('cpu');
    const list = byCpu.get(cpu);
    if (list === undefined) byCpu.set(cpu, [known]);
    else list.push(known);
  }
  return byCpu;
}

interface Kinds {
  /** Timers of idle vCPUs, which are never set. */
  readonly unused: ReadonlySet<bigint>;
  /** Timers by which guests are interrupted when they asked for it. */
  readonly ofGuests: ReadonlySet<bigint>;
}

function repairQueue(context: StepContext, cpu: number, known: readonly KnownTimer[], kinds: Kinds): void {
  const { plan, xen } = context;
  const queue = timerQueue(xen, cpu);
  const { slots } = queue;
  const stray = slots.filter((address) => kinds.unused.has(address));
  const defect = heapDefect(xen, queue) ?? (stray.length === 0 ? undefined : 'a timer of an idle vCPU is in it');
  const inactive = inactiveList(xen, queue);
  const lost = lostTimers(context, queue, known, kinds);
  // Most of these were handled: they are not told.
  const again = handledTimers(context, cpu) ? cameDue(xen, cpu, known, kinds.ofGuests) : [];
  const late = known.filter(({ timer }) => isFarAway(xen, cpu, timer, kinds.ofGuests));
  for (const { timer, name } of late) {
    plan.set(timer, 'expires', calibratedAt(xen, cpu), `${name} is set again by its guest`);
    lost.set(timer.address, `${name} was to come much later; it comes at once`);
  }
  if (defect === undefined && inactive.broken === undefined && lost.size + again.length === 0) return;
  if (defect !== undefined) plan.found(`heap of CPU ${cpu}: ${defect}; built anew`);
  if (inactive.broken !== undefined) plan.found(`inactive list of CPU ${cpu}: ${inactive.broken}; built anew`);
  for (const why of lost.values()) plan.found(why);
  for (const address of stray) takeOff(context, xen.object('timer', address));
  rebuildHeap(context, queue, [...lost.keys(), ...again]);
  rebuildInactive(context, queue, inactive.nodes);
}

/** Timers that have to be on the heap and are not, with what became of them. */
function lostTimers(
  context: StepContext,
  queue: TimerQueue,
  known: readonly KnownTimer[],
  { unused }: Kinds,
): Map<bigint, string> {
  const { plan, xen } = context;
  const { cpu } = queue;
  const lost = new Map<bigint, string>();
  const running = queue.object.u64('running');
  if (running !== 0n) {
    plan.set(queue.object, 'running', 0, `no timer handler runs on CPU ${cpu}`);
    const isInactive = isTimer(xen, running) && xen.object('timer', running).num('status') === TIMER_STATUS.inactive;
    if (isInactive && !unused.has(running)) {
      lost.set(running, `timer ${timerName(context, running)} was cut off in its handler`);
    }
  }
  for (const name of ALWAYS_SET) {
    const timer = xen.object('timer', xen.symbol(name));
    if (timer.num('cpu') === cpu && timer.num('status') === TIMER_STATUS.inactive) {
      lost.set(timer.address, `${name} was not set again`);
    }
  }
  const onHeap = new Set(queue.slots);
  const list = overflowList(xen, queue);
  const overflow = new Set(list.timers);
  if (list.broken !== undefined && plan.write(list.lastLink, 8, 0, `timers of CPU ${cpu}: ${list.broken}`))
    plan.found(`overflow list of CPU ${cpu}: ${list.broken}; cut off there`);
  for (const { timer, name } of known) {
    if (timer.u64('function') === 0n || unused.has(timer.address)) continue;
    const status = timer.num('status');
    if (status === TIMER_STATUS.inHeap && !onHeap.has(timer.address))
      lost.set(timer.address, `${name} fell off the heap`);
    if (status === TIMER_STATUS.inList && !overflow.has(timer.address))
      lost.set(timer.address, `${name} fell off the list`);
    if (status === TIMER_STATUS.invalid) lost.set(timer.address, `${name} was between two states`);
    // Taken off the heap and not yet on the list of those whose handler is called.
    if (status === TIMER_STATUS.inactive && timer.i64('expires') > 0n && !isLinked(xen, timer))
      lost.set(timer.address, `${name} was about to be handled`);
  }
  return lost;
}

const calibratedAt = (xen: Xen, cpu: number): bigint => clockOf(xen, cpu).i64('stamp.local_stime');

/** Timers of guests that came due lately and were not set since. */
function cameDue(xen: Xen, cpu: number, known: readonly KnownTimer[], ofGuests: ReadonlySet<bigint>): bigint[] {
  const lately = calibratedAt(xen, cpu) - LATELY;
  return known
    .filter(({ timer }) => ofGuests.has(timer.address) && timer.num('status') === TIMER_STATUS.inactive)
    .flatMap(({ timer }) => (timer.u64('function') !== 0n && timer.i64('expires') > lately ? [timer.address] : []));
}

const isFarAway = (xen: Xen, cpu: number, timer: XenObject, ofGuests: ReadonlySet<bigint>): boolean =>
  ofGuests.has(timer.address) &&
  timer.num('status') === TIMER_STATUS.inHeap &&
  timer.i64('expires') > calibratedAt(xen, cpu) + FAR;

const handledTimers = ({ abandoned }: StepContext, cpu: number): boolean =>
  abandoned.some((state) => state.cpu === cpu && state.backtrace.some(({ text }) => /timer_softirq_action/.test(text)));

/** As its maker left it. */
function takeOff({ plan }: StepContext, timer: XenObject): void {
  const reason = 'idle vCPUs use no timers';
  plan.linkList(timer.at('inactive'), [], reason);
  plan.set(timer, 'status', TIMER_STATUS.inactive, reason);
}

/** Whether a timer can be there: something that calls a function of Xen. A slot can have been overwritten with anything. */
const isTimer = (xen: Xen, address: bigint): boolean =>
  xen.memory.isMapped(address) && xen.profile.isText(xen.object('timer', address).u64('function'));

function isLinked(xen: Xen, timer: XenObject): boolean {
  const [node, next, prev] = [timer.at('inactive'), timer.u64('inactive.next'), timer.u64('inactive.prev')];
  if (!xen.memory.isMapped(next) || !xen.memory.isMapped(prev)) return false;
  return xen.memory.u64(next + 8n) === node && xen.memory.u64(prev) === node;
}

/** A sorted array is a heap: writes all timers that belong on it in the order in which they expire. */
function rebuildHeap({ plan, xen }: StepContext, queue: TimerQueue, lost: readonly bigint[]): void {
  const members = new Set(queue.slots.filter((address) => belongs(address)));
  for (const address of lost) members.add(address);
  const sorted = [...members]
    .map((address) => xen.object('timer', address))
    .sort((a, b) => Number(a.i64('expires') - b.i64('expires')))
    .slice(0, queue.limit);
  const reason = `timer heap of CPU ${queue.cpu} built anew`;
  plan.write(queue.heap, 2, sorted.length, reason);
  for (const [n, timer] of sorted.entries()) {
    plan.write(queue.heap + BigInt(8 * (n + 1)), 8, timer.address, reason);
    detach(timer);
    plan.set(timer, 'heap_offset', n + 1, reason);
    plan.set(timer, 'status', TIMER_STATUS.inHeap, reason);
    plan.set(timer, 'cpu', queue.cpu, reason);
  }

  function belongs(address: bigint): boolean {
    if (!isTimer(xen, address)) return false;
    const timer = xen.object('timer', address);
    const status = timer.num('status');
    return timer.num('cpu') === queue.cpu && (status === TIMER_STATUS.inHeap || status === TIMER_STATUS.invalid);
  }

  /** Takes a timer off the inactive list before the union's bytes become its heap offset. */
  function detach(timer: XenObject): void {
    if (timer.num('status') !== TIMER_STATUS.inactive) return;
    const next = timer.u64('inactive.next');
    const prev = timer.u64('inactive.prev');
    if (!xen.memory.isMapped(next) || !xen.memory.isMapped(prev)) return;
    if (xen.memory.u64(prev) === timer.at('inactive')) plan.write(prev, 8, next, reason);
    if (xen.memory.u64(next + 8n) === timer.at('inactive')) plan.write(next + 8n, 8, prev, reason);
  }
}

/** Links the list's nodes anew: those that could be reached and every known timer that says it is inactive here. */
function rebuildInactive({ plan, xen, situation }: StepContext, queue: TimerQueue, reached: readonly bigint[]): void {
  const again = inactiveList(xen, queue);
  if (again.broken === undefined) return;
  const link = xen.offsetOf('timer', 'inactive');
  const members = new Set<bigint>();
  for (const node of reached) if (isInactive(node - link)) members.add(node);
  for (const { timer } of knownTimers(xen, situation.domains)) {
    if (timer.num('cpu') === queue.cpu && isInactive(timer.address)) members.add(timer.address + link);
  }
  plan.linkList(queue.object.at('inactive'), members, `inactive timers of CPU ${queue.cpu} linked anew`);

  function isInactive(address: bigint): boolean {
    return xen.memory.isMapped(address) && xen.object('timer', address).num('status') === TIMER_STATUS.inactive;
  }
}

/** A timer's name by the function it calls. */
function timerName({ xen }: StepContext, address: bigint): string {
  return xen.profile.describe(xen.object('timer', address).u64('function'));
}
