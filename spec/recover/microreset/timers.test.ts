import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { timers as timersStep } from '../../../src/recover/microreset/timers.js';
import { closedList } from '../../../src/xen/list.js';
import { heapDefect, inactiveList, overflowList, timerQueue } from '../../../src/xen/timers.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
let timers: bigint[];
beforeEach(() => {
  fake = new FakeXen();
  timers = [100, 200, 150, 300, 250].map((expires) => fake.newTimer(0, expires));
  fake.setHeap(0, timers);
});

const heap = (): bigint => timerQueue(fake.xen(), 0).heap;
const onHeap = (xen: Xen, cpu = 0): bigint[] => [...timerQueue(xen, cpu).slots].sort((a, b) => (a < b ? -1 : 1));
const queueAt = (): bigint => fake.perCpu('timers', 0);
const inactiveLink = (timer: bigint): bigint => fake.fieldAt('timer', timer, 'inactive');

describe('timers', () => {
  it('leaves a queue in order alone', () => {
    expect(planWith(fake, timersStep)).toMatchObject({ findings: [], writes: [] });
  });

  it('puts back the timer whose handler was cut off', () => {
    const cut = fake.newTimer(0, 50);
    fake.set('timers', queueAt(), 'running', cut);
    fake.link(fake.fieldAt('timers', queueAt(), 'inactive'), [inactiveLink(cut)]);
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual(['timer vcpu_singleshot_timer_fn was cut off in its handler']);
    expect(timerQueue(after, 0).slots[0]).toBe(cut);
    expect(heapDefect(after, timerQueue(after, 0))).toBeUndefined();
    expect(inactiveList(after, timerQueue(after, 0))).toEqual({ nodes: [], broken: undefined });
    expect(after.object('timers', queueAt()).u64('running')).toBe(0n);
  });

  it('does not set a timer again that its handler had set already', () => {
    fake.set('timers', queueAt(), 'running', timers[1]!);
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual([]);
    expect(onHeap(after)).toEqual([...timers].sort((a, b) => (a < b ? -1 : 1)));
    expect(after.object('timers', queueAt()).u64('running')).toBe(0n);
  });

  it('sets the time calibration again, which nobody else would', () => {
    const calibration = fake.symbol('calibration_timer');
    fake.set('timer', calibration, 'status', 1);
    fake.set('timer', calibration, 'function', fake.symbol('vcpu_singleshot_timer_fn'));
    fake.link(fake.fieldAt('timers', queueAt(), 'inactive'), [inactiveLink(calibration)]);
    expect(onHeap(planWith(fake, timersStep).after)).toContain(calibration);
  });

  it('finds a vCPU’s timer that believes to be on the heap and is not', () => {
    const lost = fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer');
    for (const [field, value] of Object.entries({ expires: 120, cpu: 0, status: 3, heap_offset: 3, function: 0x1n })) {
      fake.set('timer', lost, field, value);
    }
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual(['d0v0.singleshot_timer fell off the heap']);
    expect(onHeap(after)).toContain(lost);
  });

  it('puts back a vCPU’s timer that was off the heap, and not yet on the list of those that are handled', () => {
    const timer = fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer');
    const handler = fake.symbol('vcpu_singleshot_timer_fn');
    for (const [field, value] of Object.entries({ expires: 120, cpu: 0, status: 1, heap_offset: 1, function: handler }))
      fake.set('timer', timer, field, value);
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual(['d0v0.singleshot_timer was about to be handled']);
    expect(onHeap(after)).toContain(timer);
  });

  it('takes a timer off the heap of a CPU on which it is not, and puts it on its own', () => {
    const [stray] = timers;
    fake.set('timer', stray!, 'cpu', 1);
    const known = fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer');
    const handler = fake.symbol('vcpu_singleshot_timer_fn');
    const fields = { expires: 120, cpu: 1, status: 3, heap_offset: 1, function: handler };
    for (const [field, value] of Object.entries(fields)) fake.set('timer', known, field, value);
    fake.setHeap(0, [known, ...timers.slice(1)]);
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual([
      'heap of CPU 0: slot 1 holds a timer of another CPU; built anew',
      'd0v0.singleshot_timer fell off the heap',
    ]);
    expect(onHeap(after)).toHaveLength(timers.length - 1);
    expect(onHeap(after, 1)).toEqual([known]);
    for (const cpu of [0, 1]) expect(heapDefect(after, timerQueue(after, cpu))).toBeUndefined();
  });

  it('puts a guest’s timer back that came due lately, of a CPU that was dropped while it handled timers', () => {
    const timer = fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer');
    const handler = fake.symbol('vcpu_singleshot_timer_fn');
    for (const [field, value] of Object.entries({ expires: 2_500_000_000n, cpu: 0, status: 1, function: handler }))
      fake.set('timer', timer, field, value);
    fake.link(inactiveLink(timer));
    fake.set('vcpu', fake.dom0.address, 'is_initialised', 1);
    fake.set('cpu_time', fake.perCpu('cpu_time', 0), 'stamp.local_stime', 3_000_000_000n);
    fake.enterXen(0, 'schedule');
    expect(onHeap(planWith(fake, timersStep).after)).not.toContain(timer);
    fake.enterXen(0, 'timer_softirq_action');
    const { after, findings } = planWith(fake, timersStep);
    expect(onHeap(after)).toContain(timer);
    expect(findings).toEqual([]);
    fake.set('timer', timer, 'expires', 1_500_000_000n);
    expect(onHeap(planWith(fake, timersStep).after)).not.toContain(timer);
  });

  it('has a guest’s timer come at once that was set for another day', () => {
    const timer = fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer');
    const handler = fake.symbol('vcpu_singleshot_timer_fn');
    const fields = { expires: 0x7cfd_cbfb_15dcn, cpu: 0, status: 3, heap_offset: 6, function: handler };
    for (const [field, value] of Object.entries(fields)) fake.set('timer', timer, field, value);
    fake.set('vcpu', fake.dom0.address, 'is_initialised', 1);
    fake.setHeap(0, [...timers, timer]);
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toEqual(['d0v0.singleshot_timer was to come much later; it comes at once']);
    expect(timerQueue(after, 0).slots[0]).toBe(timer);
    expect(heapDefect(after, timerQueue(after, 0))).toBeUndefined();
  });

  it('sets no timer of an idle vCPU, whatever it says, and takes it off a heap', () => {
    const timer = fake.fieldAt('vcpu', fake.idle[0]!.address, 'poll_timer');
    const handler = fake.symbol('do_page_fault');
    for (const [field, value] of Object.entries({ expires: 50, cpu: 0, status: 1, function: handler }))
      fake.set('timer', timer, field, value);
    expect(planWith(fake, timersStep).findings).toEqual([]);
    fake.set('timer', timer, 'status', 3);
    fake.setHeap(0, [timer, ...timers]);
    expect(heapDefect(fake.xen(), timerQueue(fake.xen(), 0))).toBeUndefined();
    const { after, findings } = planWith(fake, timersStep);
    expect(findings).toContain('heap of CPU 0: a timer of an idle vCPU is in it; built anew');
    expect(onHeap(after)).not.toContain(timer);
    expect(after.object('timer', timer).num('status')).toBe(1);
  });

  it('cuts off the list of those that the heap has no room for where it leads nowhere', () => {
    const more = [400, 500].map((expires) => fake.newTimer(0, expires));
    for (const timer of more) fake.set('timer', timer, 'status', 4);
    fake.set('timers', queueAt(), 'list', more[0]!);
    fake.set('timer', more[0]!, 'list_next', more[1]!);
    expect(planWith(fake, timersStep).writes).toEqual([]);
    fake.set('timer', more[1]!, 'list_next', 0xdead_0000n);
    const { after, findings } = planWith(fake, timersStep);
    expect(overflowList(after, timerQueue(after, 0))).toMatchObject({ timers: more, broken: undefined });
    expect(findings).toEqual(['overflow list of CPU 0: a link leads nowhere; cut off there']);
  });

  it('throws out of a heap what is no timer', () => {
    const wrong = fake.alloc(64);
    fake.setHeap(0, [...timers, wrong]);
    fake.set('timer', wrong, 'status', 0);
    expect(onHeap(planWith(fake, timersStep).after)).toEqual([...timers].sort((a, b) => (a < b ? -1 : 1)));
  });

  it('builds a broken list of inactive timers anew from those that say they are on it', () => {
    const [a, b] = [fake.newTimer(0, 0), fake.fieldAt('vcpu', fake.dom0.address, 'poll_timer')];
    for (const [field, value] of Object.entries({ cpu: 0, status: 1, function: 0x1n }))
      fake.set('timer', b, field, value);
    const head = fake.fieldAt('timers', queueAt(), 'inactive');
    fake.link(head, [inactiveLink(a), inactiveLink(b)]);
    fake.put(inactiveLink(a), 8, 0xbadn);
    const { after } = planWith(fake, timersStep);
    const list = inactiveList(after, timerQueue(after, 0));
    expect(list.broken).toBeUndefined();
    expect(list.nodes).toContain(inactiveLink(b));
  });

  /** What a dropped `add_to_heap`, `remove_from_heap`, `up_heap` or `down_heap` may leave, and worse. */
  const damage = fc.oneof(
    fc.record({ what: fc.constant('expires' as const), slot: fc.nat(4), value: fc.integer({ min: -1000, max: 1000 }) }),
    fc.record({ what: fc.constant('offset' as const), slot: fc.nat(4), value: fc.nat(20) }),
    fc.record({ what: fc.constant('swap' as const), slot: fc.nat(4), value: fc.nat(4) }),
  );

  it('makes of any heap in disorder an ordered one that holds the same timers', () => {
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 6 }), (damages) => {
        for (const [n, timer] of timers.entries()) fake.set('timer', timer, 'expires', 100 * n);
        fake.setHeap(0, timers);
        for (const { what, slot, value } of damages) {
          if (what === 'expires') fake.set('timer', timers[slot]!, 'expires', value);
          else if (what === 'offset') fake.set('timer', timers[slot]!, 'heap_offset', value);
          else {
            const [a, b] = [slot, value].map((n) => heap() + BigInt(8 * (n + 1)));
            const [inA, inB] = [a, b].map((at) => fake.xen().memory.u64(at!));
            fake.put(a!, 8, inB!);
            fake.put(b!, 8, inA!);
          }
        }
        const { after } = planWith(fake, timersStep);
        expect(heapDefect(after, timerQueue(after, 0))).toBeUndefined();
        expect(onHeap(after)).toEqual([...timers].sort((a, b) => (a < b ? -1 : 1)));
      }),
      { numRuns: 60 },
    );
  });

  it('drops from the heap what is no timer, and keeps every timer that can be told', () => {
    const rubbish = fc.constantFrom(0n, 0x10n, 0xffff_ffff_ffff_ffffn);
    fc.assert(
      fc.property(fc.nat(4), rubbish, (slot, value) => {
        fake.setHeap(0, timers);
        fake.put(heap() + BigInt(8 * (slot + 1)), 8, value);
        const { after } = planWith(fake, timersStep);
        expect(heapDefect(after, timerQueue(after, 0))).toBeUndefined();
        expect(onHeap(after)).toEqual(timers.filter((_, n) => n !== slot).sort((a, b) => (a < b ? -1 : 1)));
      }),
      { numRuns: 30 },
    );
  });

  it('never writes beyond the heap, whatever size it claims', () => {
    fake.put(heap(), 2, 0xffff);
    const { after } = planWith(fake, timersStep);
    const queue = timerQueue(after, 0);
    expect(heapDefect(after, queue)).toBeUndefined();
    expect(queue.size).toBeLessThanOrEqual(queue.limit);
  });
});

describe('timers that interrupt a vCPU of an HVM guest', () => {
  const list = (): bigint => fake.fieldAt('vcpu', fake.hvm.address, 'arch.hvm.tm_list');
  const own = (): bigint => fake.fieldAt('vcpu', fake.hvm.address, 'arch.hvm.vlapic.pt');

  it('are linked anew from those that say they are on the list', () => {
    fake.link(list(), [own()]);
    fake.set('periodic_time', own(), 'vcpu', fake.hvm.address);
    expect(planWith(fake, timersStep).findings).toEqual([]);
    fake.put(list(), 8, 0x100_1001_0010_0100n);
    for (const [onList, nodes] of [
      [1, [own()]],
      [0, []],
    ] as const) {
      fake.set('periodic_time', own(), 'on_list', onList);
      const { after, findings } = planWith(fake, timersStep);
      expect(findings).toEqual(['timers that interrupt d1v0: a link leads nowhere; linked anew']);
      expect(closedList(after.memory, list())).toEqual({ nodes, broken: undefined });
    }
  });
});
