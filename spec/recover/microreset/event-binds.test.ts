import { beforeEach, describe, expect, it } from 'vitest';
import { eventBinds } from '../../../src/recover/microreset/event-binds.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { guestInDirectMap } from '../../../src/xen/guest-memory.js';
import { newBucket } from '../../support/fake-channels.js';
import { FakeXen, GUEST_KERNEL } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const EVENT_CHANNEL_OP = 32;
const ARGUMENT = GUEST_KERNEL + 0x800n;
const BUCKET = 64;
const [FREE, UNBOUND, INTERDOMAIN, PIRQ, VIRQ, IPI] = [0, 2, 3, 4, 5, 6] as const;
const [BIND_INTERDOMAIN, BIND_VIRQ, BIND_PIRQ, CLOSE, ALLOC_UNBOUND, BIND_IPI, EXPAND_ARRAY] = [
  0, 1, 2, 3, 6, 7, 12,
] as const;
let fake: FakeXen;
let buckets: { readonly dom0: bigint; readonly hvm: bigint };

beforeEach(() => {
  fake = new FakeXen();
  buckets = { dom0: bucketOf(fake.dom0.domain), hvm: bucketOf(fake.hvm.domain) };
});

function bucketOf(domain: bigint): bigint {
  const bucket = newBucket(fake, domain, BUCKET);
  const operations = fake.new('evtchn_port_ops');
  fake.set('evtchn_port_ops', operations, 'set_pending', fake.symbol('evtchn_2l_set_pending'));
  fake.set('domain', domain, 'evtchn_port_ops', operations);
  return bucket;
}

const channelAt = (whose: 'dom0' | 'hvm', port: number): bigint =>
  buckets[whose] + BigInt(port * fake.profile.struct('evtchn').size);
function channel(whose: 'dom0' | 'hvm', port: number, fields: Readonly<Record<string, bigint | number>>): void {
  for (const [path, value] of Object.entries(fields)) fake.set('evtchn', channelAt(whose, port), path, value);
}
const leadingTo = (whose: 'dom0' | 'hvm', port: number): Record<string, bigint | number> => ({
  state: INTERDOMAIN,
  'u.interdomain.remote_dom': fake[whose].domain,
  'u.interdomain.remote_port': port,
});
const lockedBy = (cpu: number): Record<string, number> => ({ 'lock.cnts.counter': 0x3000 | cpu });
const holdEventLock = (): void => fake.set('domain', fake.dom0.domain, 'event_lock.cnts.counter', 0x3000);

/** Drops an operation of dom0. */
function drop(command: number, struct: string, fields: Readonly<Record<string, bigint | number>>): Outcome {
  const xen = fake.xen();
  const at = guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), ARGUMENT)!;
  for (const [path, value] of Object.entries(fields)) fake.set(struct, at, path, value);
  fake.setHypercall(0, EVENT_CHANNEL_OP);
  fake.setFrame(0, { rdi: command, rsi: ARGUMENT });
  fake.enterXen(0, 'do_event_channel_op');
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  return planWith(fake, eventBinds, retryHypercalls);
}

/** What the guest is told: the answer, and the field that Xen fills in. `undefined` when it asks again. */
function told({ after }: Outcome, struct?: string, field?: string): number | undefined {
  const answer = after.object('cpu_user_regs', fake.frame(0)).u64('rax');
  if (answer === BigInt(EVENT_CHANNEL_OP)) return undefined;
  expect(answer).toBe(0n);
  if (struct === undefined || field === undefined) return 0;
  const at = guestInDirectMap(after, after.object('vcpu', fake.dom0.address), ARGUMENT)!;
  return after.object(struct, at).num(field);
}
const stateAfter = ({ after }: Outcome, whose: 'dom0' | 'hvm', port: number): number =>
  after.object('evtchn', channelAt(whose, port)).num('state');

describe('a port that is being bound to another domain’s', () => {
  const bind = (): Outcome =>
    drop(BIND_INTERDOMAIN, 'evtchn_bind_interdomain', { remote_dom: 1, remote_port: 5, local_port: 0 });
  const toldPort = (outcome: Outcome): number | undefined => told(outcome, 'evtchn_bind_interdomain', 'local_port');

  it('is told to the guest when both ends lead to each other, and the guest looks at it', () => {
    channel('dom0', 3, leadingTo('hvm', 5));
    channel('hvm', 5, leadingTo('dom0', 3));
    const outcome = bind();
    expect(toldPort(outcome)).toBe(3);
    const calls = outcome.calls.map((call) => call.kind === 'call' && [call.function, ...call.arguments]);
    expect(calls).toEqual([['evtchn_2l_set_pending', fake.dom0.address, channelAt('dom0', 3)]]);
  });

  it('is freed when the other end does not lead back yet', () => {
    channel('dom0', 3, leadingTo('hvm', 5));
    channel('hvm', 5, { state: UNBOUND, 'u.interdomain.remote_port': 3 });
    const outcome = bind();
    expect(toldPort(outcome)).toBeUndefined();
    expect(stateAfter(outcome, 'dom0', 3)).toBe(FREE);
    expect(outcome.after.object('evtchn', channelAt('hvm', 5)).num('u.unbound.remote_domid')).toBe(0);
  });

  it('is left to the retry when nothing was done, or the other end is somebody else’s', () => {
    channel('hvm', 5, leadingTo('hvm', 9));
    expect(toldPort(bind())).toBeUndefined();
  });
});

describe('a virtual interrupt that is being bound', () => {
  const bind = (): Outcome => drop(BIND_VIRQ, 'evtchn_bind_virq', { virq: 4, vcpu: 0, port: 0 });
  beforeEach(() => channel('dom0', 7, { state: VIRQ, 'u.virq': 4 }));

  it('is told to the guest when it leads to its channel', () => {
    fake.set('vcpu', fake.dom0.address, 'virq_to_evtchn[4]', 7);
    expect(told(bind(), 'evtchn_bind_virq', 'port')).toBe(7);
  });

  it('loses a channel that it does not lead to', () => {
    const outcome = bind();
    expect(told(outcome)).toBeUndefined();
    expect(stateAfter(outcome, 'dom0', 7)).toBe(FREE);
  });

  it('leaves the channels of other interrupts alone', () => {
    channel('dom0', 8, { state: VIRQ, 'u.virq': 2 });
    expect(stateAfter(bind(), 'dom0', 8)).toBe(VIRQ);
  });
});

it('a physical interrupt that is being bound is told to the guest when it has its channel', () => {
  channel('dom0', 9, { state: PIRQ, 'u.pirq.irq': 16 });
  expect(told(drop(BIND_PIRQ, 'evtchn_bind_pirq', { pirq: 16 }), 'evtchn_bind_pirq', 'port')).toBe(9);
  expect(told(drop(BIND_PIRQ, 'evtchn_bind_pirq', { pirq: 17 }))).toBeUndefined();
});

describe('a port that is being allocated', () => {
  const outcomes = {
    'without a peer': () => drop(ALLOC_UNBOUND, 'evtchn_alloc_unbound', { dom: 0x7ff0, remote_dom: 1 }),
    'for interrupts between processors': () => drop(BIND_IPI, 'evtchn_bind_ipi', { vcpu: 0 }),
  };
  for (const [what, dropped] of Object.entries(outcomes)) {
    it(`${what} is freed while its dropped thread holds its lock, and only then`, () => {
      const state = what === 'without a peer' ? UNBOUND : IPI;
      channel('dom0', 3, { state });
      channel('dom0', 4, { state, ...lockedBy(0) });
      channel('dom0', 5, { state, ...lockedBy(1) });
      const outcome = dropped();
      expect([3, 4, 5].map((port) => stateAfter(outcome, 'dom0', port))).toEqual([state, FREE, state]);
      expect(told(outcome)).toBeUndefined();
    });
  }
});

describe('a port that is being closed', () => {
  const close = (): Outcome => drop(CLOSE, 'evtchn_close', { port: 3 });

  it('is told to be closed when it is free, and its other end is made unbound', () => {
    channel('hvm', 5, leadingTo('dom0', 3));
    channel('hvm', 6, leadingTo('dom0', 4));
    const outcome = close();
    expect(told(outcome)).toBe(0);
    expect([5, 6].map((port) => stateAfter(outcome, 'hvm', port))).toEqual([UNBOUND, INTERDOMAIN]);
    expect(outcome.after.object('evtchn', channelAt('hvm', 5)).num('u.unbound.remote_domid')).toBe(0);
  });

  it('is closed by the retry when it is still bound', () => {
    channel('dom0', 3, leadingTo('hvm', 5));
    channel('hvm', 5, leadingTo('dom0', 3));
    const outcome = close();
    expect(told(outcome)).toBeUndefined();
    expect(outcome.writes.filter(({ step }) => step === 'event-binds')).toEqual([]);
  });
});

describe('the count of channels in use', () => {
  beforeEach(() => {
    channel('dom0', 0, { state: 1 });
    channel('dom0', 3, { state: UNBOUND });
    channel('dom0', 4, { state: UNBOUND, xen_consumer: 1 });
    fake.set('domain', fake.dom0.domain, 'active_evtchns', 7);
  });
  const count = ({ after }: Outcome): number[] => {
    const domain = after.object('domain', fake.dom0.domain);
    return ['active_evtchns', 'xen_evtchns'].map((path) => domain.num(path));
  };

  it('is made anew where a thread was dropped while it changed channels', () => {
    holdEventLock();
    expect(count(drop(CLOSE, 'evtchn_close', { port: 3 }))).toEqual([2, 1]);
  });

  it('is believed otherwise', () => {
    expect(count(drop(CLOSE, 'evtchn_close', { port: 3 }))).toEqual([7, 0]);
  });
});

it('a page of event words that is in the array is not added again', () => {
  const page = fake.alloc(4096, 4096);
  const fifo = fake.new('evtchn_fifo_domain');
  fake.set('domain', fake.dom0.domain, 'evtchn_fifo', fifo);
  fake.set('evtchn_fifo_domain', fifo, 'event_array[0]', page);
  fake.set('evtchn_fifo_domain', fifo, 'num_evtchns', 1024);
  const frame = (page - BigInt(fake.profile.constant('DIRECTMAP_VIRT_START'))) >> 12n;
  expect(told(drop(EXPAND_ARRAY, 'evtchn_expand_array', { array_gfn: frame }))).toBe(0);
  expect(told(drop(EXPAND_ARRAY, 'evtchn_expand_array', { array_gfn: frame + 1n }))).toBeUndefined();
});
