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
 * the number of the last event without a further look. The queues and the control block lead to each other, so the majority
 * tells which is right. A channel that says that Xen itself consumes its events, which only those between domains can say, takes them away
 * from its guest (`evtchn.xen_consumer`, a number in the table `xen_consumers`). A vCPU's virtual interrupt goes to the channel that says it
 * is for it, and not to another whose number has come to stand there (`vcpu.virq_to_evtchn`). Last of all, events that were lost without a trace of their sender are linked (`lost-events.ts`).
 */

import { ifReadable } from '../../xen/damage.js';
import type { Domain, Vcpu } from '../../xen/domains.js';
import {
  arrayDefect,
  EVENT,
  type EventQueue,
  electedBlock,
  eventArray,
  eventQueues,
  eventWord,
  queueDefect,
  queueState,
} from '../../xen/event-queues.js';
import {
  channelState,
  eventChannels as channelsOf,
  eventChannel,
  eventChannelBuckets,
  eventChannelsIn,
  isForVirq,
} from '../../xen/heap.js';
import { isHeld, type LockInstance } from '../../xen/locks.js';
import type { XenObject } from '../../xen/object.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { linkLostEvents } from './lost-events.js';

/** Which channels may say that Xen consumes their events. */
const MAY_HAVE_CONSUMER = ['UNBOUND', 'INTERDOMAIN'] as const;

/** Has a vCPU look at its events, once, however many reasons there are. */
type Tell = (vcpu: Vcpu, reason: string) => void;

export const eventChannels: Step = {
  name: 'event-channels',
  removes: 'events marked as delivered that are in no queue of their guest',
  source: 'field observation; Xen 4.17 common/event_fifo.c',
  run(context) {
    const tell = teller(context);
    const queued = context.situation.domains.flatMap((domain) => {
      const array = eventArray(context.xen, domain);
      return array === undefined || arrayDefect(context.xen, array) !== undefined ? [] : [{ domain, array }];
    });
    for (const domain of context.situation.domains) {
      mendConsumers(context, domain);
      for (const vcpu of domain.vcpus) mendVirqs(context, vcpu);
    }
    for (const { domain } of queued) for (const vcpu of domain.vcpus) mendBlock(context, vcpu);
    for (const lock of context.locks.heap) {
      if (lock.owner.endsWith('event channel') && isHeld(context.xen, lock)) repair(context, lock, tell);
    }
    for (const { domain, array } of queued) {
      mendQueues(context, domain, array, tell);
      linkLostEvents(context, domain, array, tell);
    }
  },
};

function teller({ plan, abandoned }: StepContext): Tell {
  const told = new Set<bigint>();
  return ({ address }, reason) => {
    const caller = abandoned[told.size % abandoned.length];
    if (caller === undefined || told.has(address)) return;
    told.add(address);
    plan.call(caller.cpu, 'vcpu_mark_events_pending', [address], reason);
  };
}

function mendConsumers({ plan, xen }: StepContext, domain: Domain): void {
  for (const channel of ifReadable(() => consumedChannels(xen, domain)) ?? []) {
    const consumer = channel.num('xen_consumer');
    const mayHaveOne = MAY_HAVE_CONSUMER.some((name) => channel.num('state') === channelState(xen, name));
    const called = xen.memory.u64(xen.symbol('xen_consumers') + BigInt(8 * (consumer - 1)));
    if (mayHaveOne && xen.profile.isText(called)) continue;
    const reason = `Xen consumes no events of d${domain.id} (port ${channel.num('port')})`;
    const at = channel.at('xen_consumer');
    plan.write(at, 1, xen.memory.u8(at) & ~consumerBits(xen), reason);
    plan.found(reason);
  }
}

/** Channels of which it is said that Xen consumes their events. */
function consumedChannels(xen: Xen, domain: Domain): XenObject[] {
  const layout = xen.profile.struct('evtchn');
  const { offset } = layout.field('xen_consumer');
  const bits = consumerBits(xen);
  return [...eventChannelBuckets(xen, domain)].flatMap(({ address, channels }) => {
    const bytes = xen.memory.bytes(address, channels * layout.size);
    // Hardly any: an object is made for those only.
    const isConsumed = Array.from({ length: channels }, (_, n) => (bytes[n * layout.size + offset]! & bits) !== 0);
    return isConsumed.includes(true) ? eventChannelsIn(xen, address, channels).filter((_, n) => isConsumed[n]) : [];
  });
}

/** `xen_consumer` is a bit field, the first of its byte. */
const consumerBits = (xen: Xen): number =>
  2 ** (xen.profile.struct('evtchn').field('xen_consumer').bit?.width ?? 8) - 1;

/** An interrupt that is bound has the number of its channel; one that is not, 0. */
function mendVirqs({ plan, xen }: StepContext, { object, name, id, domain }: Vcpu): void {
  const table = object.at('virq_to_evtchn');
  const count = Number(xen.profile.constant('NR_VIRQS'));
  for (let virq = 0; virq < count; virq++) {
    const port = xen.memory.u32(table, 4 * virq);
    if (port === 0) continue;
    const channel = ifReadable(() => eventChannel(xen, domain, port));
    if (channel !== undefined && isForVirq(xen, channel, virq)) continue;
    const all = ifReadable(() => [...channelsOf(xen, domain)]) ?? [];
    const right = all.find((one) => isForVirq(xen, one, virq) && one.num('notify_vcpu_id') === id);
    if (right === undefined && channel !== undefined) continue;
    const reason = `virtual interrupt ${virq} of ${name} went to port ${port}, which is not for it`;
    plan.write(table + BigInt(4 * virq), 4, right?.num('port') ?? 0, reason);
    plan.found(reason);
  }
}

function mendBlock({ plan, xen }: StepContext, vcpu: Vcpu): void {
  const state = queueState(xen, vcpu);
  const block = state && ifReadable(() => electedBlock(xen, state));
  if (state === undefined || block === undefined) return;
  const reason = `the queues of ${vcpu.name} lead to its control block`;
  if (plan.set(state, 'control_block', block, reason))
    plan.found(`control block of the events of ${vcpu.name} was another; written again`);
}

function mendQueues({ plan, xen }: StepContext, domain: Domain, array: XenObject, tell: Tell): void {
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
    tell(vcpu, reason);
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
    if (word === undefined || (word & EVENT.linked) === 0) break;
    last = port;
    port = word & EVENT.next;
  }
  return last;
}

function repair(context: StepContext, lock: LockInstance, tell: Tell): void {
  const { situation } = context;
  const channel = channelOf(context, lock);
  const domain = situation.domains.find(({ id }) => lock.owner.startsWith(`d${id} `));
  repairEnd(context, domain, channel, tell);
  if (channel.num('state') !== channelState(context.xen, 'INTERDOMAIN')) return;
  const remote = situation.domains.find(({ address }) => address === channel.u64('u.interdomain.remote_dom'));
  const port = channel.num('u.interdomain.remote_port');
  const other = context.locks.heap
    .filter(({ owner }) => remote !== undefined && owner === `d${remote.id} event channel`)
    .map((one) => channelOf(context, one))
    .find((one) => one.num('port') === port);
  if (other !== undefined) repairEnd(context, remote, other, tell);
}

const channelOf = ({ xen }: StepContext, { address }: LockInstance): XenObject =>
  xen.object('evtchn', address - xen.offsetOf('evtchn', 'lock'));

function repairEnd(context: StepContext, domain: Domain | undefined, channel: XenObject, tell: Tell): void {
  const { plan, xen } = context;
  const vcpu = domain?.vcpus.find(({ id }) => id === channel.num('notify_vcpu_id'));
  if (domain === undefined || vcpu === undefined) return;
  const fifo = domain.object.u64('evtchn_fifo');
  if (fifo === 0n) lookEverywhere(context, vcpu);
  else repairFifo(context, domain, vcpu, channel, xen.object('evtchn_fifo_domain', fifo));
  plan.found(`an event for ${vcpu.name} (port ${channel.num('port')}) was on its way`);
  tell(vcpu, `${vcpu.name} looks at its events`);
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
  if ((xen.memory.u32(word) & EVENT.linked) === 0) return;
  if (tail !== port) {
    const tailLeadsHere = tailWord !== undefined && (xen.memory.u32(tailWord) & EVENT.next) === port;
    const headLeadsHere = head !== 0n && xen.memory.u32(head) === port;
    if (!tailLeadsHere && !headLeadsHere) {
      plan.write(word, 4, xen.memory.u32(word) & ~EVENT.linked, reason);
      return;
    }
    plan.set(queue, `queue[${priority}].tail`, port, reason);
  }
  const control = queue.u64('control_block');
  if (control !== 0n) plan.write(control, 4, xen.memory.u32(control) | (1 << priority), reason);

  /** BUSY stops the guest from changing the word while Xen does. */
  function clearBusy(at: bigint): void {
    const value = xen.memory.u32(at);
    if ((value & EVENT.busy) !== 0)
      plan.write(at, 4, value & ~EVENT.busy, `d${domain.id}: nobody changes the event's word`);
  }
}
