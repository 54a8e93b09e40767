/**
 * Changes of event channels: a bind that is repeated takes a second port or is refused since the first try had its effect, and
 * Linux stops (`BUG`) when a port that it closes is closed already. Xen holds the domain's `event_lock` all the while and has the result
 * in a copy of the guest's argument; what it did is in the channels (Xen 4.17, common/event_channel.c):
 * - close: the port is free. The other end of an interdomain channel is made unbound where that was not reached.
 * - bind_interdomain: both ends lead to each other: the guest gets its answer, and the event that tells it to look. Where only
 *   the own end does, it is freed.
 * - bind_virq, bind_pirq: the interrupt leads to a channel of its kind: the guest gets its answer. A channel for a virtual
 *   interrupt that does not lead to it is freed.
 * - alloc_unbound, bind_ipi: two such channels look the same, so the thread's own is known only while it holds the channel's
 *   lock; that one is freed. Dropped later, it stays: a port that nobody knows of, which harms nobody.
 * - expand_array: the page is in the array already.
 * The counts of channels in use are made anew for every domain whose `event_lock` was held.
 *
 * Other operations (send, unmask, bind_vcpu, status, reset, set_priority) may be repeated.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { Domain } from '../../xen/domains.js';
import { GuestStruct } from '../../xen/guest-struct.js';
import { type ChannelState, channelState, eventChannel, eventChannels, isForVirq } from '../../xen/heap.js';
import type { XenObject } from '../../xen/object.js';
import type { Step, StepContext } from '../step.js';
import { namedDomain, type UnderWay, underWay } from './under-way.js';

const EVENT_CHANNEL_OP = 32;
/** EVTCHNOP_* (public/event_channel.h): what is judged, and the argument's type. */
const OPERATIONS = new Map<bigint, { struct: string; judge: (call: Call) => void }>([
  [0n, { struct: 'evtchn_bind_interdomain', judge: bindInterdomain }],
  [1n, { struct: 'evtchn_bind_virq', judge: bindVirq }],
  [2n, { struct: 'evtchn_bind_pirq', judge: bindPirq }],
  [3n, { struct: 'evtchn_close', judge: close }],
  [6n, { struct: 'evtchn_alloc_unbound', judge: allocUnbound }],
  [7n, { struct: 'evtchn_bind_ipi', judge: bindIpi }],
  [12n, { struct: 'evtchn_expand_array', judge: expandArray }],
]);
const EVENT_WORDS_PER_PAGE = 1024;
const PAGE_SHIFT = 12;

/** A call under way: whose, with which argument. */
interface Call {
  readonly context: StepContext;
  readonly cpu: CpuState;
  readonly call: UnderWay;
  readonly given: GuestStruct;
  readonly caller: Domain;
}

export const eventBinds: Step = {
  name: 'event-binds',
  removes: 'repetition of binds and closes of event channels that had their effect',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/event_channel.c',
  run(context) {
    for (const cpu of context.abandoned) {
      const call = underWay(context, cpu, EVENT_CHANNEL_OP);
      const operation = call && OPERATIONS.get(BigInt.asUintN(32, call.arguments[0]!));
      if (call === undefined || operation === undefined) continue;
      const given = GuestStruct.at(context.xen, cpu.current.object, operation.struct, call.arguments[1]!);
      if (given !== undefined) operation.judge({ context, cpu, call, given, caller: cpu.current.domain });
    }
    for (const domain of context.situation.domains) if (domain.kind !== 'idle') recount(context, domain);
  },
};

function release({ context }: Call, domain: Domain, channel: XenObject): void {
  const reason = `port ${channel.num('port')} of d${domain.id} was bound half way`;
  context.plan.set(channel, 'state', channelState(context.xen, 'FREE'), reason);
  context.plan.set(channel, 'notify_vcpu_id', 0, reason);
  context.plan.found(reason);
}

function finish({ context, call, given }: Call, field: string | undefined, port: number, what: string): void {
  const target = field === undefined ? undefined : given.inDirectMap(field);
  if (field !== undefined && target === undefined) return;
  if (target !== undefined) context.plan.write(target, 4, port, what);
  call.finish(what);
}

function leadsTo(channel: XenObject, domain: Domain, port: number): boolean {
  if (channel.u64('u.interdomain.remote_dom') !== domain.address) return false;
  return channel.num('u.interdomain.remote_port') >>> 0 === port;
}

function bindInterdomain(call: Call): void {
  const { context, cpu, given, caller } = call;
  const { plan, xen } = context;
  const remotePort = given.num('remote_port');
  const remote = namedDomain(context, cpu, given.num('remote_dom'));
  const theirs = remote && eventChannel(xen, remote, remotePort);
  if (remote === undefined || theirs === undefined) return;
  const interdomain = channelState(context.xen, 'INTERDOMAIN');
  const mine = [...eventChannels(xen, caller)].find(
    (one) => one.num('state') === interdomain && leadsTo(one, remote, remotePort),
  );
  if (mine === undefined) return;
  const port = mine.num('port');
  if (theirs.num('state') === interdomain && leadsTo(theirs, caller, port)) {
    tell(call, mine);
    finish(call, 'local_port', port, `port ${port} of d${caller.id} is bound to port ${remotePort} of d${remote.id}`);
  } else if (theirs.num('state') === channelState(context.xen, 'UNBOUND')) {
    release(call, caller, mine);
    // Its name shares memory with the port number that is put there next.
    plan.set(
      theirs,
      'u.unbound.remote_domid',
      caller.id,
      `port ${remotePort} of d${remote.id} waits for d${caller.id}`,
    );
  }
}

/** A new interdomain channel is marked as pending, since the other end may have sent an event before. */
function tell({ context, cpu, caller }: Call, channel: XenObject): void {
  const { plan, xen } = context;
  const vcpu = caller.vcpus.find(({ id }) => id === channel.num('notify_vcpu_id'));
  const operations = xen.object('evtchn_port_ops', caller.object.u64('evtchn_port_ops'));
  const setPending = xen.profile.resolve(operations.u64('set_pending'));
  if (vcpu === undefined || setPending === undefined || setPending.offset !== 0) return;
  plan.call(cpu.cpu, setPending.name, [vcpu.address, channel.address], `${vcpu.name} looks at its new channel`);
}

function bindVirq(call: Call): void {
  const { context, given, caller } = call;
  const [virq, id] = [given.num('virq'), given.num('vcpu')];
  const vcpu = caller.vcpus.find((one) => one.id === id);
  if (vcpu === undefined || !vcpu.object.has(`virq_to_evtchn[${virq}]`)) return;
  const bound = vcpu.object.num(`virq_to_evtchn[${virq}]`) >>> 0;
  for (const channel of eventChannels(context.xen, caller)) {
    if (!isForVirq(context.xen, channel, virq) || channel.num('notify_vcpu_id') !== id) continue;
    if (channel.num('port') !== bound) release(call, caller, channel);
    else finish(call, 'port', bound, `virtual interrupt ${virq} of ${vcpu.name} is bound to port ${bound}`);
  }
}

function bindPirq(call: Call): void {
  const { context, given, caller } = call;
  const irq = given.num('pirq');
  for (const channel of eventChannels(context.xen, caller)) {
    if (channel.num('state') !== channelState(context.xen, 'PIRQ') || channel.num('u.pirq.irq') !== irq) continue;
    const port = channel.num('port');
    finish(call, 'port', port, `interrupt ${irq} of d${caller.id} is bound to port ${port}`);
  }
}

function allocUnbound(call: Call): void {
  const owner = namedDomain(call.context, call.cpu, call.given.num('dom'));
  if (owner !== undefined) releaseLocked(call, owner, 'UNBOUND');
}

function bindIpi(call: Call): void {
  releaseLocked(call, call.caller, 'IPI');
}

/** The one channel that the thread holds locked. */
function releaseLocked(call: Call, domain: Domain, kind: ChannelState): void {
  const { context, cpu } = call;
  for (const channel of eventChannels(context.xen, domain)) {
    if (channel.num('state') !== channelState(context.xen, kind)) continue;
    if (isWriter(context, channel.at('lock'), cpu.cpu)) release(call, domain, channel);
  }
}

/** Whether a CPU held a lock for writing when the machine froze (Xen 4.17: xen/rwlock.h). */
function isWriter({ frozen }: StepContext, lock: bigint, cpu: number): boolean {
  const constant = (name: string): number => Number(frozen.profile.constant(name));
  const count = frozen.memory.u32(lock);
  return (count & constant('_QW_WMASK')) === constant('_QW_LOCKED') && (count & constant('_QW_CPUMASK')) === cpu;
}

function close(call: Call): void {
  const { context, cpu, given, caller } = call;
  const { plan, xen, situation } = context;
  const port = given.num('port');
  const channel = eventChannel(xen, caller, port);
  if (channel === undefined || channel.num('state') !== channelState(context.xen, 'FREE')) return;
  for (const domain of situation.domains) {
    if (domain.kind === 'idle') continue;
    for (const other of eventChannels(xen, domain)) {
      const isOpen = other.num('state') === channelState(context.xen, 'INTERDOMAIN');
      const isClosing =
        other.num('state') === channelState(context.xen, 'UNBOUND') && isWriter(context, other.at('lock'), cpu.cpu);
      if (!(isOpen || isClosing) || !leadsTo(other, caller, port)) continue;
      const reason = `the other end of port ${other.num('port')} of d${domain.id} is closed`;
      plan.set(other, 'state', channelState(context.xen, 'UNBOUND'), reason);
      plan.set(other, 'u.unbound.remote_domid', caller.id, reason);
      plan.found(reason);
    }
  }
  finish(call, undefined, port, `port ${port} of d${caller.id} is closed`);
}

function expandArray(call: Call): void {
  const { context, given, caller } = call;
  const { xen } = context;
  const fifo = caller.object.u64('evtchn_fifo');
  if (fifo === 0n) return;
  const object = xen.object('evtchn_fifo_domain', fifo);
  const pages = Math.floor(object.num('num_evtchns') / EVENT_WORDS_PER_PAGE);
  const last = pages === 0 ? 0n : object.u64(`event_array[${pages - 1}]`);
  if (last === 0n || !xen.memory.isMapped(last)) return;
  if (xen.memory.physicalAddress(last) !== Number(given.u64('array_gfn')) * 2 ** PAGE_SHIFT) return;
  finish(call, undefined, 0, `page ${pages - 1} of the event words of d${caller.id} is in use`);
}

/** Channels in use, those of Xen's own among them: they are counted before or after their state changes. */
function recount(context: StepContext, domain: Domain): void {
  const { plan, xen, frozen } = context;
  if (frozen.memory.u32(domain.object.at('event_lock')) === 0) return;
  const [free, reserved] = [channelState(context.xen, 'FREE'), channelState(context.xen, 'RESERVED')];
  let active = 0;
  let ours = 0;
  for (const channel of eventChannels(xen, domain)) {
    const now = channel.num('state');
    if (now === free || now === reserved) continue;
    active++;
    if (channel.num('xen_consumer') !== 0) ours++;
  }
  plan.set(domain.object, 'active_evtchns', active, `d${domain.id} has ${active} event channels in use`);
  plan.set(domain.object, 'xen_evtchns', ours, `Xen has ${ours} event channels of d${domain.id} in use`);
}
