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
 */
import type { Domain, Vcpu } from '../../xen/domains.js';
import { isHeld, type LockInstance } from '../../xen/locks.js';
import type { XenObject } from '../../xen/object.js';
import type { Step, StepContext } from '../step.js';

/** `ECS_INTERDOMAIN` in `evtchn.state` (Xen 4.17, xen/sched.h). */
const INTERDOMAIN = 3;
const LINKED = 1 << 29;
const BUSY = 1 << 28;
const LINK_MASK = (1 << 17) - 1;
const WORDS_PER_PAGE = 1024;

export const eventChannels: Step = {
  name: 'event-channels',
  removes: 'events marked as delivered that are in no queue of their guest',
  source: 'field observation; Xen 4.17 common/event_fifo.c',
  run(context) {
    for (const lock of context.locks.heap) {
      if (lock.owner.endsWith('event channel') && isHeld(context.xen, lock)) repair(context, lock);
    }
  },
};

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
  const word = wordOf(port);
  const state = vcpu.object.u64('evtchn_fifo');
  if (word === undefined || state === 0n) return;
  const priority = channel.num('priority') & 0xf;
  const queue = xen.object('evtchn_fifo_vcpu', state);
  const head = queue.u64(`queue[${priority}].head`);
  const tail = queue.num(`queue[${priority}].tail`);
  const reason = `event ${port} of ${vcpu.name} was on its way`;
  clearBusy(word);
  const tailWord = tail === 0 || tail === port ? undefined : wordOf(tail);
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

  function wordOf(number: number): bigint | undefined {
    const page = fifo.u64(`event_array[${Math.floor(number / WORDS_PER_PAGE)}]`);
    return page === 0n ? undefined : page + BigInt(4 * (number % WORDS_PER_PAGE));
  }

  /** BUSY stops the guest from changing the word while Xen does. */
  function clearBusy(at: bigint): void {
    const value = xen.memory.u32(at);
    if ((value & BUSY) !== 0) plan.write(at, 4, value & ~BUSY, `d${domain.id}: nobody changes the event's word`);
  }
}
