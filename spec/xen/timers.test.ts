import { beforeEach, describe, expect, it } from 'vitest';
import { listDomains } from '../../src/xen/domains.js';
import { heapDefect, inactiveList, knownTimers, overflowList, timerQueue } from '../../src/xen/timers.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
let timers: bigint[];
beforeEach(() => {
  fake = new FakeXen();
  timers = [100, 200, 150, 300].map((expires) => fake.newTimer(0, expires));
  fake.setHeap(0, timers);
});

const defect = (): string | undefined => heapDefect(fake.xen(), timerQueue(fake.xen(), 0));
const heap = (): bigint => timerQueue(fake.xen(), 0).heap;

describe('timerQueue', () => {
  it('reads size, limit and slots', () => {
    expect(timerQueue(fake.xen(), 0)).toMatchObject({ cpu: 0, size: 4, limit: 15, slots: timers });
    expect(timerQueue(fake.xen(), 1)).toMatchObject({ size: 0, slots: [] });
  });

  it('reads no further than the limit when the size is ruined', () => {
    fake.put(heap(), 2, 0xffff);
    expect(timerQueue(fake.xen(), 0).slots).toHaveLength(15);
  });
});

describe('heapDefect', () => {
  it('finds none in a heap in order', () => {
    expect(defect()).toBeUndefined();
    fake.setHeap(0, []);
    expect(defect()).toBeUndefined();
  });

  it('finds a timer that expires before its parent', () => {
    fake.set('timer', timers[3]!, 'expires', 199);
    expect(defect()).toMatch(/slot 4 expires before/);
    fake.set('timer', timers[3]!, 'expires', 200);
    expect(defect()).toBeUndefined();
  });

  it('compares times as signed numbers', () => {
    fake.set('timer', timers[0]!, 'expires', -5n);
    expect(defect()).toBeUndefined();
    fake.set('timer', timers[2]!, 'expires', -6n);
    expect(defect()).toMatch(/slot 3/);
  });

  it('finds a slot that two timers think is theirs', () => {
    fake.set('timer', timers[2]!, 'heap_offset', 2);
    expect(defect()).toMatch(/slot 3 and its timer disagree/);
  });

  it('finds slots without a timer, with a stopped one, and a size beyond the limit', () => {
    fake.put(heap() + 16n, 8, 0);
    expect(defect()).toMatch(/slot 2 holds no timer/);
    fake.setHeap(0, timers);
    fake.set('timer', timers[1]!, 'status', 1);
    expect(defect()).toMatch(/slot 2 holds a timer that is not active/);
    fake.put(heap(), 2, 16);
    expect(defect()).toMatch(/exceeds/);
  });
});

describe('lists of timers', () => {
  it('follows the overflow list and ends where it is broken or circular', () => {
    const queue = timerQueue(fake.xen(), 0);
    const [a, b] = [fake.newTimer(0, 1), fake.newTimer(0, 2)];
    for (const timer of [a, b]) fake.set('timer', timer, 'status', 4);
    fake.set('timers', queue.object.address, 'list', a);
    fake.set('timer', a, 'list_next', b);
    expect(overflowList(fake.xen(), queue).timers).toEqual([a, b]);
    fake.set('timer', b, 'list_next', a);
    expect(overflowList(fake.xen(), queue).timers).toEqual([a, b]);
    fake.set('timer', b, 'list_next', 0x10n);
    expect(overflowList(fake.xen(), queue).timers).toEqual([a, b]);
  });

  it('reads the inactive list', () => {
    const timer = fake.newTimer(0, 5);
    const link = fake.fieldAt('timer', timer, 'inactive');
    fake.link(timerQueue(fake.xen(), 0).object.at('inactive'), [link]);
    expect(inactiveList(fake.xen(), timerQueue(fake.xen(), 0)).nodes).toEqual([link]);
  });
});

describe('knownTimers', () => {
  it('reaches the timers of vCPUs, of the scheduler and of globals by their types', () => {
    const xen = fake.xen();
    const found = new Map([...knownTimers(xen, listDomains(xen))].map(({ timer, name }) => [timer.address, name]));
    expect(found.get(fake.fieldAt('vcpu', fake.dom0.address, 'singleshot_timer'))).toBe('d0v0.singleshot_timer');
    expect(found.get(fake.fieldAt('sched_resource', fake.resources[1]!, 's_timer'))).toBe('scheduler.s_timer');
    expect(found.get(fake.symbol('calibration_timer'))).toBe('calibration_timer');
  });
});
