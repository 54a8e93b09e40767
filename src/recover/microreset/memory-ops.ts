/**
 * Memory operations: repeated from the start, the pages of a new VM are allocated twice (its limit is soon reached, and it is
 * not created), and a PV guest's list, in which Xen has put machine frames, is taken for a list of guest frames. How many
 * elements had their effect is on the abandoned stack; what they did is in memory, and can be told there whatever
 * the compiler did with the count:
 * - populate_physmap, increase_reservation: the page that the domain got last, and the frame it has, or the list's element
 *   that was overwritten by it, say which element was the last one finished. A page that the domain got and that has no place
 *   in it yet was allocated for the next element: it is taken away again.
 * - decrease_reservation: the element's page belongs to the domain no more, or is being freed. A thread that was dropped
 *   before it gave back its own reference has that done for it.
 * - remove_from_physmap: there is nothing any more where it was.
 * - exchange: the list of what is given out has machine frames of the domain, and what was given in is gone.
 * The retry begins behind the last finished element, as it does when Xen preempts such a call: the command's upper bits say
 * where. An answer is given where there is no such encoding.
 *
 * add_to_physmap may be repeated: the same frame is put in the same place.
 */
import type { CpuState } from '../../xen/cpus.js';
import {
  guestFrameOf,
  isAllocatedTo,
  isInPhysmap,
  lastPage,
  NO_PAGE,
  ownsPage,
  pageBefore,
} from '../../xen/domain-pages.js';
import type { Domain } from '../../xen/domains.js';
import { frameCount, pageInfo } from '../../xen/frames.js';
import { guestBytes, guestInDirectMap } from '../../xen/guest-memory.js';
import { GuestStruct } from '../../xen/guest-struct.js';
import { note, type Step, type StepContext } from '../step.js';
import { namedDomain, type UnderWay, underWay, valuesInHand } from './under-way.js';

const MEMORY_OP = 12;
/** public/memory.h; `MEMOP_EXTENT_SHIFT`: the upper bits of the command say where a preempted call goes on. */
const COMMAND_MASK = 0x3fn;
const EXTENT_SHIFT = 6n;
const INCREASE = 0n;
const DECREASE = 1n;
const POPULATE = 6n;
const EXCHANGE = 11n;
const REMOVE_FROM_PHYSMAP = 15n;
/** `MAX_ORDER`, and more extents than the continuation can encode. */
const MAX_ORDER = 20;
const LONGEST_LIST = 0x3ff_ffffn;
const CHUNK = 512n;

export const memoryOps: Step = {
  name: 'memory-ops',
  removes: 'repetition of the finished part of operations on a domain’s memory; pages allocated for the part under way',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/memory.c',
  run(context) {
    for (const cpu of context.abandoned) {
      const call = underWay(context, cpu, MEMORY_OP);
      if (call === undefined) continue;
      switch (call.arguments[0]! & COMMAND_MASK) {
        case POPULATE:
        case INCREASE:
        case DECREASE:
          reservation(context, cpu, call);
          break;
        case EXCHANGE:
          exchange(context, cpu, call);
          break;
        case REMOVE_FROM_PHYSMAP:
          removal(context, cpu, call);
          break;
      }
    }
  },
};

/** A list of extents under way: `first` to `count` of them are to be done, each of 2^order pages. */
interface Extents {
  readonly domain: Domain;
  readonly list: bigint;
  readonly first: bigint;
  readonly count: bigint;
  readonly order: number;
}

function reservation(context: StepContext, cpu: CpuState, call: UnderWay): void {
  const extents = readExtents(context, cpu, call);
  if (extents === undefined) return;
  const command = call.arguments[0]! & COMMAND_MASK;
  const done =
    command === DECREASE
      ? releasedExtents(context, cpu, extents)
      : populatedExtents(context, cpu, extents, command === POPULATE);
  if (done <= extents.first) return;
  const reason = `${done} of ${extents.count} extents of d${extents.domain.id} are done`;
  call.setFirst(command | (done << EXTENT_SHIFT), reason);
  context.plan.found(reason);
  note(context, cpu.cpu, `memory_op goes on at extent ${done}`);
}

function readExtents(context: StepContext, cpu: CpuState, { arguments: [command, at] }: UnderWay): Extents | undefined {
  const given = GuestStruct.at(context.xen, cpu.current.object, 'xen_memory_reservation', at!);
  if (given === undefined) return undefined;
  const domain = namedDomain(context, cpu, given.num('domid'));
  const order = given.num('extent_order');
  const count = given.u64('nr_extents');
  const first = command! >> EXTENT_SHIFT;
  if (domain === undefined || order > MAX_ORDER || count > LONGEST_LIST || first >= count) return undefined;
  return { domain, list: given.u64('extent_start'), first, count, order };
}

/** Elements of a guest's list of frame numbers, as far as the guest maps it. */
function* elements({ xen }: StepContext, cpu: CpuState, { list, first, count }: Extents): Generator<bigint> {
  for (let at = first; at < count; at += CHUNK) {
    const length = Number(at + CHUNK > count ? count - at : CHUNK);
    const bytes = guestBytes(xen, cpu.current.object, list + at * 8n, length * 8);
    if (bytes === undefined) return;
    const view = new DataView(bytes.buffer);
    for (let n = 0; n < length; n++) yield view.getBigUint64(n * 8, true);
  }
}

/** How many extents are populated; what was allocated for the next one is taken away from the domain. */
function populatedExtents(context: StepContext, cpu: CpuState, extents: Extents, hasPlaces: boolean): bigint {
  const { xen } = context;
  const { domain, order, first } = extents;
  let last = lastPage(xen, domain);
  if (last !== undefined && hasPlaces && guestFrameOf(xen, last) === undefined) {
    if (isInHand(context, cpu, extents, last)) takeAway(context, cpu, extents, last);
    last = lastPage(xen, domain);
  }
  if (last === undefined) return first;
  if (domain.kind === 'hvm') return hasPlaces ? behindElement(context, cpu, extents, last) : first;
  const told = behindExtent(context, cpu, extents, last);
  if (told > first) return told;
  // The last one may belong to the element under way, of which the guest was not yet told.
  const before = pageBefore(xen, headOf(last, order));
  const done = before === undefined ? first : behindExtent(context, cpu, extents, before);
  if (!hasPlaces) return done;
  return publish(context, cpu, extents, last, done) ? done + 1n : first;
}

/** First page of the extent that ends with this one; extents are aligned to their size. */
const headOf = (last: number, order: number): number => Math.floor(last / 2 ** order) * 2 ** order;

/** In an HVM domain: behind the element whose place the page has. */
function behindElement(context: StepContext, cpu: CpuState, extents: Extents, last: number): bigint {
  const place = guestFrameOf(context.xen, last);
  if (place === undefined) return extents.first;
  const offset = BigInt(2 ** extents.order - 1);
  let index = extents.first;
  for (const element of elements(context, cpu, extents)) {
    index++;
    if (element + offset === place) return index;
  }
  return extents.first;
}

/**
 * In a PV domain: behind the element that was overwritten by the extent's machine frame, if those in front of it were
 * overwritten by the extents that the domain got before.
 */
function behindExtent(context: StepContext, cpu: CpuState, extents: Extents, last: number): bigint {
  const { xen } = context;
  const { domain, order, first } = extents;
  const head = BigInt(headOf(last, order));
  const seen: bigint[] = [];
  for (const element of elements(context, cpu, extents)) {
    if (element >= BigInt(frameCount(xen)) || !ownsPage(xen, domain, Number(element))) return first;
    seen.push(element);
    if (element === head) break;
  }
  if (seen.at(-1) !== head) return first;
  let frame: number | undefined = last;
  for (const element of [...seen].reverse()) {
    if (frame === undefined || BigInt(headOf(frame, order)) !== element) return first;
    frame = pageBefore(xen, Number(element));
  }
  return first + BigInt(seen.length);
}

/**
 * In a PV domain: an extent that has the place of element `index`, and of which the guest was not yet told, is written into
 * the list. Says whether it is one.
 */
function publish(context: StepContext, cpu: CpuState, extents: Extents, last: number, index: bigint): boolean {
  const { plan, xen } = context;
  const head = headOf(last, extents.order);
  if (index >= extents.count) return false;
  const at = extents.list + index * 8n;
  const bytes = guestBytes(xen, cpu.current.object, at, 8);
  const target = guestInDirectMap(xen, cpu.current.object, at);
  if (bytes === undefined || target === undefined) return false;
  const place = new DataView(bytes.buffer).getBigUint64(0, true);
  if (guestFrameOf(xen, last) !== place + BigInt(2 ** extents.order - 1)) return false;
  plan.write(target, 8, head, `d${extents.domain.id} has machine frame 0x${head.toString(16)} at this place`);
  return true;
}

/** Whether the thread has the extent in hand: a descriptor or the number of one of its frames is among its values. */
function isInHand(context: StepContext, cpu: CpuState, { order }: Extents, last: number): boolean {
  const head = headOf(last, order);
  const frames = BigInt(last - head + 1);
  const descriptors = pageInfo(context.xen, head).address;
  const size = BigInt(context.xen.sizeOf('page_info'));
  for (const value of valuesInHand(context, cpu)) {
    if (value >= descriptors && value < descriptors + frames * size && (value - descriptors) % size === 0n) return true;
    if (value >= BigInt(head) && value < BigInt(head) + frames) return true;
  }
  return false;
}

/**
 * Takes the extent that ends with this page off the domain's list and account, and has Xen free it, as pages of nobody. It may
 * have been assigned in part only: its pages stand at the end of the list, and were counted all at once before.
 */
function takeAway(context: StepContext, cpu: CpuState, extents: Extents, last: number): void {
  const { plan, xen } = context;
  const { order } = extents;
  const domain = extents.domain.object;
  const head = headOf(last, order);
  const pages = 2 ** order;
  const total = domain.num('tot_pages') >>> 0;
  if (!ownsPage(xen, extents.domain, head) || total < pages) return;
  const reason = `${pages} pages from frame 0x${head.toString(16)} have no place in d${extents.domain.id} yet`;
  const before = pageBefore(xen, head);
  plan.set(domain, 'tot_pages', total - pages, reason);
  if (before === undefined) {
    plan.set(domain, 'page_list.next', 0n, reason);
    plan.set(domain, 'page_list.tail', 0n, reason);
  } else {
    plan.set(pageInfo(xen, before), 'list.next', NO_PAGE, reason);
    plan.set(domain, 'page_list.tail', pageInfo(xen, before).address, reason);
  }
  // A domain that has pages has a reference for that (Xen: `assign_pages`, `get_knownalive_domain`).
  const references = domain.num('refcnt.counter');
  if (total === pages) plan.set(domain, 'refcnt.counter', references - 1, reason);
  const info = pageInfo(xen, head);
  plan.set(info, 'v.inuse._domain', 0, reason);
  plan.call(cpu.cpu, 'free_domheap_pages', [info.address, BigInt(order)], reason);
  plan.found(reason);
}

/** How many extents are given back, one after the other from the first. */
function releasedExtents(context: StepContext, cpu: CpuState, extents: Extents): bigint {
  const { xen } = context;
  const { domain, first, order } = extents;
  let done = first;
  let last: bigint | undefined;
  for (const element of elements(context, cpu, extents)) {
    const isReleased =
      domain.kind === 'hvm'
        ? !isInPhysmap(xen, domain, element)
        : element < BigInt(frameCount(xen)) && !isAllocatedTo(xen, domain, Number(element));
    if (!isReleased) break;
    last = element;
    done++;
  }
  if (last !== undefined && domain.kind === 'pv' && order === 0) endRelease(context, cpu, extents, Number(last));
  return done;
}

/** A page that lost the reference of its being allocated, while the thread that took it away had not given back its own. */
function endRelease(context: StepContext, cpu: CpuState, extents: Extents, frame: number): void {
  const { plan, xen } = context;
  const info = pageInfo(xen, frame);
  const references = info.u64('count_info') & BigInt(xen.profile.constant('PGC_count_mask'));
  if (!ownsPage(xen, extents.domain, frame) || references !== 1n) return;
  if (!isInHand(context, cpu, extents, frame)) return;
  const reason = `frame 0x${frame.toString(16)} was being given back`;
  plan.call(cpu.cpu, 'put_page', [info.address], reason);
  plan.found(reason);
}

function removal(context: StepContext, cpu: CpuState, call: UnderWay): void {
  const { xen } = context;
  const given = GuestStruct.at(xen, cpu.current.object, 'xen_remove_from_physmap', call.arguments[1]!);
  const domain = given && namedDomain(context, cpu, given.num('domid'));
  if (given === undefined || domain?.kind !== 'hvm' || isInPhysmap(xen, domain, given.u64('gpfn'))) return;
  call.finish(`d${domain.id} has nothing at guest frame 0x${given.u64('gpfn').toString(16)} any more`);
}

/**
 * One chunk is exchanged at a time, and its result is in the list of what is given out: machine frames of the domain that
 * have the places asked for. Linux exchanges one chunk; with more, those in front of it are done.
 */
function exchange(context: StepContext, cpu: CpuState, call: UnderWay): void {
  const { plan, xen } = context;
  const given = GuestStruct.at(xen, cpu.current.object, 'xen_memory_exchange', call.arguments[1]!);
  if (given === undefined) return;
  const domain = namedDomain(context, cpu, given.num('in.domid'));
  if (domain?.kind !== 'pv') return;
  const list = (which: 'in' | 'out'): Extents => ({
    domain,
    list: given.u64(`${which}.extent_start`),
    first: 0n,
    count: given.u64(`${which}.nr_extents`),
    order: given.num(`${which}.extent_order`),
  });
  const [taken, put] = [list('in'), list('out')];
  if (taken.count > LONGEST_LIST || put.count > LONGEST_LIST) return;
  if (taken.count === 0n || put.count === 0n) return;
  const owned = (element: bigint): boolean =>
    element < BigInt(frameCount(xen)) && isAllocatedTo(xen, domain, Number(element));
  const isTold = [...elements(context, cpu, put)].every(
    (element) => owned(element) && guestFrameOf(xen, Number(element)) !== undefined,
  );
  const isGone = [...elements(context, cpu, taken)].every((element) => !owned(element));
  const counter = given.inDirectMap('nr_exchanged');
  if (!isTold || !isGone || counter === undefined) return;
  const reason = `d${domain.id} has its ${put.count} extents in exchange`;
  plan.write(counter, 8, taken.count, reason);
  call.finish(reason);
}
