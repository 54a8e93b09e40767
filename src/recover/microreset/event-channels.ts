/**
 * An event that was on its way to a guest when its sender was dropped. The channel's own lock tells which: the sender
 * holds it (Xen 4.17, common/event_fifo.c `evtchn_fifo_set_pending`, event_2l.c). The event is sent again by the retry of
 * what caused it, but a sender that finds it marked already does nothing more:
 *
 * - FIFO channels: the event's word says LINKED before it hangs in a queue. Where it does not hang in one, the mark is
 *   taken back. Where it does, the queue's tail and the guest's "ready" bits follow.
 * - two-level channels: the event's bit is set before the bit that makes the guest look there. All of those are set: the
 *   guest looks once in vain.
 *
 * Of a channel between two domains the sender holds the lock of its own end, and marks the other one.
 *
 * What Xen keeps of a FIFO queue beside it (`event-queues.ts`) follows from the queue, should it have been written over: Xen uses
 * the number of the last event without a further look.
 */

import { ifReadable } from '../../xen/damage.js';
import type { Domain, Vcpu } from '../../xen/domains.js';
import {
  arrayDefect,
  type EventQueue,
  eventArray,
  eventQueues,
  queueDefect,
  WORDS_PER_PAGE,
} from '../../xen/event-queues.js';
import { isHeld, type LockInstance } from '../../xen/locks.js';
import type { XenObject } from '../../xen/object.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

/** `ECS_INTERDOMAIN` in `evtchn.state` (Xen 4.17, xen/sched.h). */
const INTERDOMAIN = 3;
const LINKED = 1 << 29;
const BUSY = 1 << 28;
const LINK_MASK = (1 << 17) - 1;

export const eventChannels: Step = {
  name: 'event-channels',
  removes: 'events marked as delivered that are in no queue of their guest',
  source: 'field observation; Xen 4.17 common/event_fifo.c',
  run(context) {
    for (const lock of context.locks.heap) {
      if (lock.owner.endsWith('event channel') && isHeld(context.xen, lock)) repair(context, lock);
    }
    for (const domain of context.situation.domains) {
      const array = eventArray(context.xen, domain);
      if (array !== undefined && arrayDefect(context.xen, array) === undefined) mendQueues(context, domain, array);
    }
  },
};

function mendQueues(context: StepContext, domain: Domain, array: XenObject): void {
  const { plan, xen, abandoned } = context;
  const events = array.num('num_evtchns');
  for (const queue of eventQueues(xen, domain)) {
    const { vcpu, priority, object, head } = queue;
    const defect = queueDefect(queue, events);
    if (defect === undefined) continue;
    const reason = `event queue ${priority} of ${vcpu.name}: ${defect}`;
    plan.set(object, 'priority', priority, reason);
    if (head !== 0n && xen.memory.maps(head)) plan.set(object, 'head', head, reason);
    if (object.num('tail') >= events) plan.set(object, 'tail', lastOf(xen, queue, array), reason);
    plan.found(`${reason}; written again`);
    const caller = abandoned[0];
    if (caller !== undefined) plan.call(caller.cpu, 'vcpu_mark_events_pending', [vcpu.address], reason);
  }
}

/** The last event of a queue, found in the guest's memory; 0 when none hangs in it. Where the guest wrote nonsense, so is this. */
function lastOf(xen: Xen, { head }: EventQueue, array: XenObject): number {
  const events = array.num('num_evtchns');
  let last = 0;
  let port = head === 0n ? 0 : (ifReadable(() => xen.memory.u32(head)) ?? 0);
  for (let n = 0; n < events && port > 0 && port < events; n++) {
    const at = eventWord(array, port);
    const word = at === undefined ? undefined : ifReadable(() => xen.memory.u32(at));
    if (word === undefined || (word & LINKED) === 0) break;
    last = port;
    port = word & LINK_MASK;
  }
  return last;
}

/** Where in the guest's memory the word of an event is. */
function eventWord(array: XenObject, port: number): bigint | undefined {
  const page = array.u64(`event_array[${Math.floor(port / WORDS_PER_PAGE)}]`);
  return page === 0n ? undefined : page + BigInt(4 * (port % WORDS_PER_PAGE));
}

function repair(context: StepContext, lock: LockInstance): void {
  const { situation } = context;
  const channel = channelOf(context, lock);
  const domain = situation.domains.find(({ id }) => lock.owner.startsWith(`d${id} `));
  repairEnd(context, domain, channel);
  if (channel.num('state') !== INTERDOMAIN) return;
  const remote = situation.domains.find(({ address }) => address === channel.u64('u.interdomain.remote_dom'));
  const port = channel.num('u.interdomain.remote_port');
  const other = context.locks.heap
    .filter(({ owner }) => remote !== undefined && owner === `d${remote.id} event channel`)
    .map((one) => channelOf(context, one))
    .find((one) => one.num('port') === port);
  if (other !== undefined) repairEnd(context, remote, other);
}

const channelOf = ({ xen }: StepContext, { address }: LockInstance): XenObject =>
  xen.object('evtchn', address - xen.offsetOf('evtchn', 'lock'));

function repairEnd(context: StepContext, domain: Domain | undefined, channel: XenObject): void {
  const { plan, xen } = context;
  const vcpu = domain?.vcpus.find(({ id }) => id === channel.num('notify_vcpu_id'));
  if (domain === undefined || vcpu === undefined) return;
  const fifo = domain.object.u64('evtchn_fifo');
  if (fifo === 0n) lookEverywhere(context, vcpu);
  else repairFifo(context, domain, vcpu, channel, xen.object('evtchn_fifo_domain', fifo));
  plan.found(`an event for ${vcpu.name} (port ${channel.num('port')}) was on its way`);
  plan.call(context.abandoned[0]!.cpu, 'vcpu_mark_events_pending', [vcpu.address], `${vcpu.name} looks at its events`);
}

/** Two-level channels: one word of selectors, each for 64 events. */
function lookEverywhere({ plan, xen }: StepContext, vcpu: Vcpu): void {
  const info = xen.object('vcpu_info', vcpu.object.u64('vcpu_info'));
  plan.set(info, 'evtchn_pending_sel', 0xffff_ffff_ffff_ffffn, `${vcpu.name} looks at all its events`);
}

function repairFifo({ plan, xen }: StepContext, domain: Domain, vcpu: Vcpu, channel: XenObject, fifo: XenObject): void {
  const port = channel.num('port');
  const word = eventWord(fifo, port);
  const state = vcpu.object.u64('evtchn_fifo');
  if (word === undefined || state === 0n) return;
  const priority = channel.num('priority') & 0xf;
  const queue = xen.object('evtchn_fifo_vcpu', state);
  const head = queue.u64(`queue[${priority}].head`);
  const tail = queue.num(`queue[${priority}].tail`);
  const reason = `event ${port} of ${vcpu.name} was on its way`;
  clearBusy(word);
  const tailWord = tail === 0 || tail === port ? undefined : eventWord(fifo, tail);
  if (tailWord !== undefined) clearBusy(tailWord);
  if ((xen.memory.u32(word) & LINKED) === 0) return;
  if (tail !== port) {
    const tailLeadsHere = tailWord !== undefined && (xen.memory.u32(tailWord) & LINK_MASK) === port;
    const headLeadsHere = head !== 0n && xen.memory.u32(head) === port;
    if (!tailLeadsHere && !headLeadsHere) {
      plan.write(word, 4, xen.memory.u32(word) & ~LINKED, reason);
      return;
    }
    plan.set(queue, `queue[${priority}].tail`, port, reason);
  }
  const control = queue.u64('control_block');
  if (control !== 0n) plan.write(control, 4, xen.memory.u32(control) | (1 << priority), reason);

  /** BUSY stops the guest from changing the word while Xen does. */
  function clearBusy(at: bigint): void {
    const value = xen.memory.u32(at);
    if ((value & BUSY) !== 0) plan.write(at, 4, value & ~BUSY, `d${domain.id}: nobody changes the event's word`);
  }
}
