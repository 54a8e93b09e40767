/**
 * Queues of event channels (Xen 4.17, common/event_fifo.c): of each vCPU sixteen, one for each priority. The events themselves
 * hang in pages of the guest's, where it may write what it likes; here is what Xen alone writes.
 */
import type { Domain, Vcpu } from './domains.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

const QUEUES = 16;
/** `EVTCHN_FIFO_NR_CHANNELS` (public/event_channel.h). */
const MOST_EVENTS = 131_072;
/** Events of a page of the array. */
export const WORDS_PER_PAGE = 1024;

/** Bits of an event's word (public/event_channel.h). The rest of it names the event that follows in the queue. */
export const EVENT = { pending: 2 ** 31, masked: 2 ** 30, linked: 2 ** 29, busy: 2 ** 28, next: 2 ** 17 - 1 } as const;

export interface EventQueue {
  readonly vcpu: Vcpu;
  readonly priority: number;
  /** `struct evtchn_fifo_queue` */
  readonly object: XenObject;
  /** Where in the vCPU's control block the first event of this queue is to stand; 0 while there is no such block. */
  readonly head: bigint;
}

/** `struct evtchn_fifo_domain` of a domain that has such queues. */
export function eventArray(xen: Xen, domain: Domain): XenObject | undefined {
  const address = domain.kind === 'idle' ? 0n : xen.object('domain', domain.address).u64('evtchn_fifo');
  return address === 0n ? undefined : xen.object('evtchn_fifo_domain', address);
}

/** What is wrong with a domain's array of events; `undefined` when it is in order. */
export function arrayDefect(xen: Xen, array: XenObject): string | undefined {
  const events = array.num('num_evtchns');
  if (events > MOST_EVENTS) return `it has ${events} events`;
  const pages = array.at('event_array');
  for (let page = 0; page * WORDS_PER_PAGE < events; page++) {
    if (!xen.memory.maps(xen.memory.u64(pages, 8 * page))) return `page ${page} of it leads nowhere`;
  }
  return undefined;
}

/** Where in the guest's memory the word of an event is; `undefined` where the array has no page for it. */
export function eventWord(array: XenObject, port: number): bigint | undefined {
  const page = array.u64(`event_array[${Math.floor(port / WORDS_PER_PAGE)}]`);
  return page === 0n ? undefined : page + BigInt(4 * (port % WORDS_PER_PAGE));
}

/** `struct evtchn_fifo_vcpu` of a vCPU that has such queues. */
export function queueState(xen: Xen, vcpu: Vcpu): XenObject | undefined {
  const address = xen.object('vcpu', vcpu.address).u64('evtchn_fifo');
  return address === 0n ? undefined : xen.object('evtchn_fifo_vcpu', address);
}

/** The control block that most of a vCPU's queues lead to: each has the address of its own head in there. */
export function electedBlock(xen: Xen, state: XenObject): bigint | undefined {
  const votes = new Map<bigint, number>();
  const first = xen.offsetOf('evtchn_fifo_control_block', 'head');
  for (let priority = 0; priority < QUEUES; priority++) {
    const block = state.u64(`queue[${priority}].head`) - first - BigInt(4 * priority);
    votes.set(block, (votes.get(block) ?? 0) + 1);
  }
  const [elected] = [...votes].find(([, count]) => count > QUEUES / 2) ?? [];
  return elected !== undefined && xen.memory.maps(elected) ? elected : undefined;
}

export function* eventQueues(xen: Xen, domain: Domain): Generator<EventQueue> {
  const size = BigInt(xen.sizeOf('evtchn_fifo_queue'));
  const first = xen.offsetOf('evtchn_fifo_control_block', 'head');
  for (const vcpu of domain.vcpus) {
    const state = queueState(xen, vcpu);
    if (state === undefined) continue;
    const block = state.u64('control_block');
    const queues = state.at('queue');
    for (let priority = 0; priority < QUEUES; priority++) {
      const object = xen.object('evtchn_fifo_queue', queues + BigInt(priority) * size);
      yield { vcpu, priority, object, head: block === 0n ? 0n : block + first + BigInt(4 * priority) };
    }
  }
}

/** What is wrong with a queue of a domain with so many events. Xen follows the tail without a further look. */
export function queueDefect({ object, priority, head }: EventQueue, events: number): string | undefined {
  if (object.num('tail') >= Math.max(1, events)) return 'its tail is no event';
  if (object.num('priority') !== priority) return 'it has the number of another';
  return head === 0n || object.u64('head') === head ? undefined : 'its head is not in the control block';
}
