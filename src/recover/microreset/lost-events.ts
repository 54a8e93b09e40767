/**
 * Events that hang in no queue of their guest, whoever lost them: damaged code sends events wrongly on every CPU, long before one of
 * them fails, and what is lost is lost for good. A sender that finds an event linked does nothing more, and a guest that never
 * gets the interrupt of its timer never sets it again.
 *
 * A linked event is in order when the queue's last event can be reached from it (Xen 4.17, common/event_fifo.c). Where the queue
 * begins only the guest knows, which takes off from its own head and reads the one in the control block when it was done. So:
 *
 * - what is pending, not masked, and hangs nowhere, is appended to the queue that its channel names;
 * - what is linked to no queue, and does not wait, has its mark taken back;
 * - what no sender and no guest leaves, a word that is being changed or names an event that there is not, was written over: it is
 *   pending, since nobody knows, and not masked if its channel is in use;
 * - the head of a queue that is not empty is its first event, and its "ready" bit is set.
 *
 * All of it is harmless when nothing was lost, such as when a guest was frozen while it took off events: it looks once in vain.
 */
import { ifReadable } from '../../xen/damage.js';
import type { Domain, Vcpu } from '../../xen/domains.js';
import { EVENT, type EventQueue, eventQueues, eventWord, queueState, WORDS_PER_PAGE } from '../../xen/event-queues.js';
import { channelState, eventChannel } from '../../xen/heap.js';
import type { XenObject } from '../../xen/object.js';
import type { Xen } from '../../xen/xen.js';
import type { StepContext } from '../step.js';

const MARKS = EVENT.linked + EVENT.busy + EVENT.next;

interface Event {
  readonly port: number;
  readonly at: bigint;
  readonly word: number;
}

/** @param tell has a vCPU look at its events */
export function linkLostEvents(
  context: StepContext,
  domain: Domain,
  array: XenObject,
  tell: (vcpu: Vcpu, reason: string) => void,
): void {
  const { plan, xen } = context;
  const events = ifReadable(() => markedEvents(xen, domain, array));
  if (events === undefined || events.length === 0) return;
  const queues = [...eventQueues(xen, domain)].filter(({ head }) => head !== 0n);
  if (queues.some(({ head }) => !xen.memory.isMapped(head))) return;
  const { hanging, firsts } = followQueues(events, queues);
  const limit = array.num('num_evtchns');
  const lost = events.filter(({ port }) => !hanging.has(port));
  const added = new Map<EventQueue, Event[]>();
  for (const event of lost) {
    const isOverwritten = wasOverwritten(event.word, limit);
    const queue = isOverwritten || wants(event.word) ? queueOf(xen, domain, event.port, queues) : undefined;
    if (isOverwritten) plan.found(`event ${event.port} of d${domain.id}: its word was written over`);
    if (queue !== undefined) {
      const word = isOverwritten ? EVENT.pending : event.word;
      added.set(queue, [...(added.get(queue) ?? []), { ...event, word }]);
    } else if (isOverwritten) {
      plan.write(event.at, 4, EVENT.masked, `nobody uses event ${event.port} of d${domain.id}`);
    } else if ((event.word & EVENT.linked) !== 0) {
      const reason = `event ${event.port} of d${domain.id} hangs in no queue`;
      plan.write(event.at, 4, withMarks(event.word, 0), reason);
      plan.found(`${reason}; its mark is taken back`);
    }
  }
  for (const queue of queues) settleQueue(queue, firsts.get(queue), added.get(queue) ?? []);

  function settleQueue(queue: EventQueue, first: number | undefined, more: readonly Event[]): void {
    const { vcpu, priority, object, head } = queue;
    const [begin] = first === undefined ? more.map(({ port }) => port) : [first];
    if (begin === undefined) return;
    const reason = `events wait in queue ${priority} of ${vcpu.name}`;
    for (const event of more) plan.found(`event ${event.port} of ${vcpu.name} hung in no queue; linked`);
    append(queue, first === undefined ? undefined : object.num('tail'), more);
    const block = queueState(xen, vcpu)!.u64('control_block');
    const ready = xen.memory.u32(block);
    const changed = [
      more.length > 0,
      plan.write(head, 4, begin, reason),
      plan.write(block, 4, ready | (1 << priority), reason),
      !isTold(xen, vcpu),
    ];
    if (changed.includes(true)) tell(vcpu, reason);
  }

  /** @param last the event that is the queue's last one until then, if it has any */
  function append(queue: EventQueue, last: number | undefined, more: readonly Event[]): void {
    const { vcpu, priority, object } = queue;
    const end = more.at(-1);
    if (end === undefined) return;
    const before = events!.find(({ port }) => port === last);
    const chain = before === undefined ? more : [before, ...more];
    for (const [n, { port, at, word }] of chain.entries()) {
      const reason = `event ${port} waits in queue ${priority} of ${vcpu.name}`;
      plan.write(at, 4, withMarks(word, EVENT.linked + (chain[n + 1]?.port ?? 0)), reason);
    }
    for (const { port } of more) {
      const reason = `event ${port} hangs in queue ${priority} of ${vcpu.name}`;
      const channel = eventChannel(xen, domain, port);
      if (channel !== undefined) plan.set(channel, 'fifo_lastq', (vcpu.id << 16) | priority, reason);
      for (const other of queues)
        if (other !== queue && other.object.num('tail') === port) plan.set(other.object, 'tail', 0, reason);
    }
    plan.set(object, 'tail', end.port, `event ${end.port} is the last in queue ${priority} of ${vcpu.name}`);
  }
}

/** Events that are pending or linked, or say what cannot be, in the order of their numbers. */
function markedEvents(xen: Xen, domain: Domain, array: XenObject): Event[] {
  const marked: Event[] = [];
  const limit = array.num('num_evtchns');
  const count = Math.min(xen.object('domain', domain.address).num('valid_evtchns'), limit);
  for (let first = 0; first < count; first += WORDS_PER_PAGE) {
    const page = eventWord(array, first);
    if (page === undefined) continue;
    const bytes = xen.memory.bytes(page, 4 * Math.min(WORDS_PER_PAGE, count - first));
    const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let n = 0; 4 * n < bytes.length; n++) {
      const word = words.getUint32(4 * n, true);
      if ((word & EVENT.linked) !== 0 || wants(word) || wasOverwritten(word, limit))
        marked.push({ port: first + n, at: page + BigInt(4 * n), word });
    }
  }
  return marked;
}

/** Whether a guest is to handle it. */
const wants = (word: number): boolean => (word & EVENT.pending) !== 0 && (word & EVENT.masked) === 0;

/** Xen marks a word as being changed for a moment only, and only one that hangs in a queue. */
const wasOverwritten = (word: number, events: number): boolean =>
  (word & EVENT.busy) !== 0 || (word & EVENT.next) >= events;

/** Follows each queue from its last event to the first one. */
function followQueues(
  events: readonly Event[],
  queues: readonly EventQueue[],
): { readonly hanging: ReadonlySet<number>; readonly firsts: ReadonlyMap<EventQueue, number> } {
  const linked = events.filter(({ word }) => (word & EVENT.linked) !== 0);
  const ports = new Set(linked.map(({ port }) => port));
  const before = new Map(linked.map(({ port, word }) => [word & EVENT.next, port]));
  before.delete(0);
  const hanging = new Set<number>();
  const firsts = new Map<EventQueue, number>();
  for (const queue of queues) {
    let port = queue.object.num('tail');
    if (!ports.has(port) || hanging.has(port)) continue;
    for (let at: number | undefined = port; at !== undefined && !hanging.has(at); at = before.get(at)) {
      hanging.add(at);
      port = at;
    }
    firsts.set(queue, port);
  }
  return { hanging, firsts };
}

/** The queue in which an event of a channel in use belongs. */
function queueOf(xen: Xen, domain: Domain, port: number, queues: readonly EventQueue[]): EventQueue | undefined {
  const channel = ifReadable(() => eventChannel(xen, domain, port));
  // What lies above is in use.
  if (channel === undefined || channel.num('state') <= channelState(xen, 'RESERVED')) return undefined;
  const [vcpu, level] = [channel.num('notify_vcpu_id'), channel.num('priority')];
  return queues.find((queue) => queue.vcpu.id === vcpu && queue.priority === level);
}

/** Whether a vCPU is to look at its events already. */
function isTold(xen: Xen, { address }: Vcpu): boolean {
  const info = xen.object('vcpu', address).u64('vcpu_info');
  return !xen.memory.isMapped(info) || xen.memory.u8(info) !== 0;
}

const withMarks = (word: number, marks: number): number => ((word & ~MARKS) | marks) >>> 0;
