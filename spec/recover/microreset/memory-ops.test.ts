import { beforeEach, describe, expect, it } from 'vitest';
import { batchProgress } from '../../../src/recover/microreset/batch-progress.js';
import { memoryOps } from '../../../src/recover/microreset/memory-ops.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { NO_PAGE } from '../../../src/xen/domain-pages.js';
import { pageInfo } from '../../../src/xen/frames.js';
import { guestBytes, guestInDirectMap } from '../../../src/xen/guest-memory.js';
import { FakeXen, GUEST_KERNEL } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const MEMORY_OP = 12;
const ARGUMENT = GUEST_KERNEL + 0x800n;
const LIST = GUEST_KERNEL + 0x900n;
const [INCREASE, DECREASE, POPULATE, EXCHANGE, REMOVE] = [0, 1, 6, 11, 15] as const;
const NOWHERE = 0xffff_ffff_ffff_ffffn;
/** Guest frames that are asked for: far from any machine frame of the fake. */
const PLACE = 0x10_0000n;
let fake: FakeXen;
let free: number;

beforeEach(() => {
  fake = new FakeXen();
  free = 0x1c00;
});

const constant = (name: string): bigint => BigInt(fake.profile.constant(name));
const descriptor = (frame: number): bigint => pageInfo(fake.xen(), frame).address;
const dom0 = (): bigint => fake.dom0.domain;
const hvm = (): bigint => fake.hvm.domain;

function inGuest(address: bigint): bigint {
  const xen = fake.xen();
  return guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), address)!;
}
const argument = (struct: string, fields: Readonly<Record<string, bigint | number>>): void => {
  for (const [path, value] of Object.entries(fields)) fake.set(struct, inGuest(ARGUMENT), path, value);
};
const list = (...values: (bigint | number)[]): void => {
  for (const [n, value] of values.entries()) fake.put(inGuest(LIST + BigInt(8 * n)), 8, value);
};
const listAfter = ({ after }: Outcome, length: number): number[] => {
  const bytes = guestBytes(after, after.object('vcpu', fake.dom0.address), LIST, length * 8)!;
  return Array.from({ length }, (_, n) => Number(new DataView(bytes.buffer).getBigUint64(8 * n, true)));
};

/** The domain gets pages, the last on its list; each has a place or none. Returns the first. */
function give(domain: bigint, places: readonly (bigint | undefined)[], assigned = places.length): number {
  const first = Math.ceil(free / places.length) * places.length;
  free = first + places.length;
  for (const [n, place] of places.entries()) {
    const [frame, at] = [first + n, descriptor(first + n)];
    fake.put(constant('RDWR_MPT_VIRT_START') + BigInt(8 * frame), 8, place ?? NOWHERE);
    if (n >= assigned) continue;
    fake.set('page_info', at, 'count_info', constant('PGC_allocated') | 1n);
    fake.set('page_info', at, 'v.inuse._domain', (domain - constant('DIRECTMAP_VIRT_START')) >> 12n);
    const tail = fake.get('domain', domain, 'page_list.tail');
    const before = tail === 0n ? NO_PAGE : Number((tail - descriptor(0)) / 32n);
    fake.set('page_info', at, 'list.prev', before);
    fake.set('page_info', at, 'list.next', NO_PAGE);
    if (tail === 0n) fake.set('domain', domain, 'page_list.next', at);
    else fake.set('page_info', tail, 'list.next', frame);
    fake.set('domain', domain, 'page_list.tail', at);
  }
  const total = fake.get('domain', domain, 'tot_pages');
  fake.set('domain', domain, 'tot_pages', total + BigInt(places.length));
  return first;
}

/** Drops a memory operation of dom0 that has a value on its stack. */
function drop(command: number, first = 0, inHand = 0n): Outcome {
  fake.setHypercall(0, MEMORY_OP);
  fake.setFrame(0, { rdi: command | (first << 6), rsi: ARGUMENT });
  fake.enterXen(0, 'do_memory_op');
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  fake.put(fake.frame(0) - 0x100n, 8, inHand);
  return planWith(fake, memoryOps, retryHypercalls);
}

/** Where the retry begins. */
function beginsAt({ after }: Outcome): number {
  return Number(after.object('cpu_user_regs', fake.frame(0)).u64('rdi') >> 6n);
}
const answers = ({ after }: Outcome): bigint => after.object('cpu_user_regs', fake.frame(0)).u64('rax');
const total = ({ after }: Outcome, domain: bigint): number => after.object('domain', domain).num('tot_pages');
const called = ({ calls }: Outcome, name: string): bigint[][] =>
  calls.flatMap((call) => (call.kind === 'call' && call.function === name ? [[...call.arguments]] : []));
const freed = (outcome: Outcome): bigint[][] => called(outcome, 'free_domheap_pages');

const reservation = (domid: number, count: number, order = 0): void =>
  argument('xen_memory_reservation', { extent_start: LIST, nr_extents: count, extent_order: order, domid });

describe('a PV guest’s memory that is being populated', () => {
  beforeEach(() => reservation(0, 4));

  it('goes on behind the last frame that the guest was told', () => {
    give(dom0(), [7n]);
    const [a, b] = [give(dom0(), [PLACE]), give(dom0(), [PLACE + 1n])];
    list(a, b, PLACE + 2n, PLACE + 3n);
    expect(beginsAt(drop(POPULATE))).toBe(2);
  });

  it('goes on behind what was done before it was preempted', () => {
    const [a, b, c] = [give(dom0(), [PLACE]), give(dom0(), [PLACE + 1n]), give(dom0(), [PLACE + 2n])];
    list(a, b, c, PLACE + 3n);
    expect(beginsAt(drop(POPULATE, 2))).toBe(3);
  });

  it('is repeated from the start when nothing was done', () => {
    give(dom0(), [7n]);
    list(PLACE, PLACE + 1n, PLACE + 2n, PLACE + 3n);
    const outcome = drop(POPULATE);
    expect(beginsAt(outcome)).toBe(0);
    expect(freed(outcome)).toEqual([]);
  });

  it('is not taken for done where a guest frame has the number of a machine frame', () => {
    const mine = give(dom0(), [7n]);
    give(dom0(), [8n]);
    list(mine, PLACE + 1n, PLACE + 2n, PLACE + 3n);
    expect(beginsAt(drop(POPULATE))).toBe(0);
  });

  it('is told of the frame that has its place already', () => {
    const a = give(dom0(), [PLACE]);
    const b = give(dom0(), [PLACE + 1n]);
    list(a, PLACE + 1n, PLACE + 2n, PLACE + 3n);
    const outcome = drop(POPULATE, 0, descriptor(b));
    expect(listAfter(outcome, 4)).toEqual([a, b, ...[2n, 3n].map((n) => Number(PLACE + n))]);
    expect(beginsAt(outcome)).toBe(2);
  });

  it('loses the page that was allocated and has no place yet', () => {
    const a = give(dom0(), [PLACE]);
    const b = give(dom0(), [undefined]);
    list(a, PLACE + 1n, PLACE + 2n, PLACE + 3n);
    const outcome = drop(POPULATE, 0, BigInt(b));
    expect(beginsAt(outcome)).toBe(1);
    expect(freed(outcome)).toEqual([[descriptor(b), 0n]]);
    expect(total(outcome, dom0())).toBe(1);
    expect(outcome.after.object('domain', dom0()).u64('page_list.tail')).toBe(descriptor(a));
    expect(pageInfo(outcome.after, a).num('list.next') >>> 0).toBe(NO_PAGE);
  });

  it('keeps a page without a place that the thread has nothing to do with', () => {
    give(dom0(), [undefined]);
    list(PLACE, PLACE + 1n, PLACE + 2n, PLACE + 3n);
    expect(freed(drop(POPULATE))).toEqual([]);
  });

  it('has nothing left when all was done', () => {
    list(...[0n, 1n, 2n, 3n].map((n) => give(dom0(), [PLACE + n])));
    expect(beginsAt(drop(POPULATE))).toBe(4);
  });
});

describe('an HVM domain’s memory that is being populated', () => {
  const superpage = (at: bigint): bigint[] => [0n, 1n, 2n, 3n].map((n) => at + n);
  beforeEach(() => reservation(1, 3, 2));

  it('goes on behind the extent whose place the last page has', () => {
    give(hvm(), superpage(PLACE));
    give(hvm(), superpage(PLACE + 4n));
    list(PLACE, PLACE + 4n, PLACE + 8n);
    expect(beginsAt(drop(POPULATE))).toBe(2);
  });

  it('loses all of an extent that was assigned in part', () => {
    fake.set('domain', hvm(), 'refcnt.counter', 2);
    const extent = give(hvm(), [undefined, undefined, undefined, undefined], 2);
    list(PLACE, PLACE + 4n, PLACE + 8n);
    const outcome = drop(POPULATE, 0, descriptor(extent));
    expect(beginsAt(outcome)).toBe(0);
    expect(freed(outcome)).toEqual([[descriptor(extent), 2n]]);
    expect(total(outcome, hvm())).toBe(0);
    const { after } = outcome;
    expect(after.object('domain', hvm()).u64('page_list.next')).toBe(0n);
    expect(after.object('domain', hvm()).num('refcnt.counter')).toBe(1);
    expect(pageInfo(after, extent).num('v.inuse._domain')).toBe(0);
  });
});

describe('memory that a PV guest asks to have more of', () => {
  it('goes on behind the last frame that the guest was told, though one more is allocated', () => {
    reservation(0, 3);
    const a = give(dom0(), [undefined]);
    give(dom0(), [undefined]);
    list(a, 0, 0);
    expect(beginsAt(drop(INCREASE))).toBe(1);
  });
});

describe('memory that is being given back', () => {
  beforeEach(() => reservation(0, 3));
  const release = (frame: number, count: bigint): void => fake.set('page_info', descriptor(frame), 'count_info', count);

  it('goes on at the first page that the domain still has', () => {
    const pages = [0n, 1n, 2n].map((n) => give(dom0(), [PLACE + n]));
    release(pages[0]!, constant('PGC_state_free'));
    list(...pages);
    expect(beginsAt(drop(DECREASE))).toBe(1);
  });

  it('has the reference given back that the dropped thread held', () => {
    const pages = [0n, 1n, 2n].map((n) => give(dom0(), [PLACE + n]));
    release(pages[0]!, 1n);
    list(...pages);
    const outcome = drop(DECREASE, 0, descriptor(pages[0]!));
    expect(beginsAt(outcome)).toBe(1);
    expect(called(outcome, 'put_page')).toEqual([[descriptor(pages[0]!)]]);
  });

  it('keeps the reference that somebody else holds', () => {
    const pages = [0n, 1n, 2n].map((n) => give(dom0(), [PLACE + n]));
    release(pages[0]!, 1n);
    list(...pages);
    expect(called(drop(DECREASE), 'put_page')).toEqual([]);
  });
});

describe('a page that is being removed from an HVM domain', () => {
  beforeEach(() => {
    const p2m = fake.new('p2m_domain');
    fake.set('domain', hvm(), 'arch.p2m', p2m);
    fake.set('p2m_domain', p2m, 'phys_table', BigInt(fake.memory.newTable()) >> 12n);
    argument('xen_remove_from_physmap', { domid: 1, gpfn: 5n });
  });

  it('is told to be removed when there is nothing any more', () => {
    expect(answers(drop(REMOVE))).toBe(0n);
  });

  it('is removed by the retry when it is still there', () => {
    const root = fake.get('p2m_domain', fake.get('domain', hvm(), 'arch.p2m'), 'phys_table');
    fake.memory.map(Number(root) * 4096, 5n << 12n, 0x100_0000, 'page');
    expect(answers(drop(REMOVE))).toBe(BigInt(MEMORY_OP));
  });
});

describe('pages that are being exchanged', () => {
  const asked = (): void =>
    argument('xen_memory_exchange', {
      'in.extent_start': LIST,
      'in.nr_extents': 2,
      'in.domid': 0x7ff0,
      'out.extent_start': LIST + 0x40n,
      'out.nr_extents': 1,
      'out.extent_order': 1,
    });

  it('are told to be exchanged when the new ones have their places and the old ones are gone', () => {
    asked();
    const old = give(dom0(), [PLACE, PLACE + 1n]);
    for (const frame of [old, old + 1]) fake.set('page_info', descriptor(frame), 'count_info', 0);
    list(old, old + 1);
    fake.put(inGuest(LIST + 0x40n), 8, give(dom0(), [PLACE, PLACE + 1n]));
    const outcome = drop(EXCHANGE);
    expect(answers(outcome)).toBe(0n);
    expect(outcome.after.memory.u64(inGuest(ARGUMENT) + 64n)).toBe(2n);
  });

  it('are exchanged by the retry when the old ones are still there', () => {
    asked();
    const old = give(dom0(), [PLACE, PLACE + 1n]);
    list(old, old + 1);
    fake.put(inGuest(LIST + 0x40n), 8, PLACE);
    expect(answers(drop(EXCHANGE))).toBe(BigInt(MEMORY_OP));
  });
});

describe('a memory operation in a multicall', () => {
  const MULTICALL = 13;
  const ELEMENTS = GUEST_KERNEL + 0xa00n;
  /** The second of three elements is under way. */
  function dropIn(command: number): Outcome {
    for (let n = 0; n < 3; n++) {
      const at = inGuest(ELEMENTS + BigInt(64 * n));
      const fields = [MEMORY_OP, 0, command + (n === 1 ? 0 : 64 * n + 64), ARGUMENT];
      for (const [field, value] of fields.entries()) fake.put(at + BigInt(8 * field), 8, value);
    }
    const copy = fake.fieldAt('vcpu', fake.dom0.address, 'mc_state.call');
    for (const [field, value] of [MEMORY_OP, 0, command, ARGUMENT].entries())
      fake.put(copy + BigInt(8 * field), 8, value);
    fake.put(fake.fieldAt('vcpu', fake.dom0.address, 'mc_state.flags'), 1, 1);
    fake.setHypercall(0, MULTICALL);
    fake.setFrame(0, { rdi: ELEMENTS, rsi: 3 });
    fake.enterXen(0, 'do_memory_op');
    fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
    return planWith(fake, batchProgress, memoryOps, retryHypercalls);
  }
  const left = ({ after }: Outcome): bigint[] => {
    const frame = after.object('cpu_user_regs', fake.frame(0));
    return [frame.u64('rdi') - ELEMENTS, frame.u64('rsi')];
  };

  it('goes on behind what was done', () => {
    reservation(0, 2);
    list(give(dom0(), [PLACE]), PLACE + 1n);
    const outcome = dropIn(POPULATE);
    expect(left(outcome)).toEqual([64n, 2n]);
    expect(outcome.after.memory.u64(inGuest(ELEMENTS + 64n) + 16n)).toBe(BigInt(POPULATE | (1 << 6)));
  });

  it('is not repeated when it had its effect', () => {
    const p2m = fake.new('p2m_domain');
    fake.set('domain', hvm(), 'arch.p2m', p2m);
    fake.set('p2m_domain', p2m, 'phys_table', BigInt(fake.memory.newTable()) >> 12n);
    argument('xen_remove_from_physmap', { domid: 1, gpfn: 5n });
    expect(left(dropIn(REMOVE))).toEqual([128n, 1n]);
  });
});

it('a call that had not begun is left alone', () => {
  reservation(0, 1);
  list(give(dom0(), [PLACE]));
  fake.setHypercall(0, MEMORY_OP);
  fake.setFrame(0, { rdi: POPULATE, rsi: ARGUMENT });
  fake.enterXen(0, 'lstar_enter', 0);
  expect(planWith(fake, memoryOps).writes).toEqual([]);
});
