import { beforeEach, describe, expect, it } from 'vitest';
import { listDomains } from '../../src/xen/domains.js';
import { heapLocks, isHeld, type LockInstance, lockName, staticLocks } from '../../src/xen/locks.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

function held(): string[] {
  const xen = fake.xen();
  return [...staticLocks(xen), ...heapLocks(xen, listDomains(xen))].filter((lock) => isHeld(xen, lock)).map(lockName);
}

describe('isHeld', () => {
  const check = (kind: LockInstance['kind'], fill: (address: bigint) => void): boolean => {
    const address = fake.alloc(64);
    fill(address);
    return isHeld(fake.xen(), { kind, address, owner: '', path: '' });
  };

  it('compares the tickets of a spinlock', () => {
    expect(check('spinlock', () => {})).toBe(false);
    expect(check('spinlock', (at) => fake.put(at, 4, 0x0007_0007))).toBe(false);
    expect(check('spinlock', (at) => fake.put(at, 4, 0x0008_0007))).toBe(true);
    expect(check('spinlock', (at) => fake.put(at, 4, 0x0000_ffff))).toBe(true);
  });

  it('looks at a recursive lock’s count, not at the CPU noted beside it', () => {
    expect(check('spinlock', (at) => fake.put(at + 4n, 2, 0x0fff))).toBe(false);
    expect(check('spinlock', (at) => fake.put(at + 4n, 2, 0x0002))).toBe(false);
    expect(check('spinlock', (at) => fake.put(at + 4n, 2, 0x1002))).toBe(true);
  });

  it('sees readers, writers and waiters of a read-write lock', () => {
    expect(check('rwlock', () => {})).toBe(false);
    expect(check('rwlock', (at) => fake.put(at, 4, 0x4000))).toBe(true);
    expect(check('rwlock', (at) => fake.put(at, 4, 0x3001))).toBe(true);
    expect(check('rwlock', (at) => fake.put(at + 4n, 4, 0x0001_0000))).toBe(true);
  });

  it('sees a writer that waits for the readers of a per-CPU read-write lock', () => {
    expect(check('percpu-rwlock', () => {})).toBe(false);
    expect(check('percpu-rwlock', (at) => fake.set('percpu_rwlock', at, 'writer_activating', 1))).toBe(true);
  });
});

describe('the locks of a Xen', () => {
  const take = (address: bigint): void => fake.put(address, 4, 0x0001_0000);

  it('are free in a healthy one', () => {
    expect(held()).toEqual([]);
  });

  it('are found in globals, per-CPU data and objects on the heap', () => {
    take(fake.symbol('heap_lock'));
    take(fake.perCpu('timers', 1));
    take(fake.fieldAt('domain', fake.hvm.domain, 'event_lock'));
    take(fake.fieldAt('vcpu', fake.dom0.address, 'virq_lock'));
    take(fake.runQueue);
    expect(held()).toEqual(['heap_lock', 'CPU 1 timers', 'd1 event_lock', 'd0v0 virq_lock', 'run queue lock']);
  });

  it('are found behind pointers: grant tables, event queues, event channels', () => {
    const table = fake.new('grant_table');
    fake.set('domain', fake.dom0.domain, 'grant_table', table);
    fake.put(fake.fieldAt('grant_table', table, 'maptrack_lock'), 4, 0x0001_0000);
    const queue = fake.new('evtchn_fifo_vcpu');
    fake.set('vcpu', fake.dom0.address, 'evtchn_fifo', queue);
    take(fake.fieldAt('evtchn_fifo_vcpu', queue, 'queue[7].lock'));
    const bucket = fake.alloc(4096, 4096);
    const size = fake.profile.struct('evtchn').size;
    fake.set('domain', fake.hvm.domain, 'evtchn', bucket);
    fake.set('domain', fake.hvm.domain, 'valid_evtchns', 64);
    fake.put(fake.fieldAt('evtchn', bucket + BigInt(5 * size), 'lock'), 4, 0x4000);
    expect(held()).toEqual(['d0 grant table maptrack_lock', 'd1 event channel lock', 'd0v0 event queue queue[7].lock']);
  });

  it('are listed of an interrupt line that is free, unless only held ones are wanted', () => {
    const { size } = fake.profile.struct('irq_desc');
    // The table begins in the middle of a page and reaches into the next.
    const table = fake.alloc(3 * 4096, 4096) + 0xf00n;
    fake.put(fake.symbol('irq_desc'), 8, table);
    fake.put(fake.symbol('nr_irqs'), 4, 20);
    take(fake.fieldAt('irq_desc', table + BigInt(17 * size), 'lock'));
    const xen = fake.xen();
    const linesIn = (freeLines: boolean): string[] =>
      heapLocks(xen, listDomains(xen), { freeLines })
        .map(lockName)
        .filter((name) => name.startsWith('IRQ'));
    expect(linesIn(true)).toHaveLength(20);
    expect(linesIn(false)).toEqual(['IRQ 17 lock']);
  });

  it('leave alone the half of a union that is of the other kind of guest', () => {
    const pvOnly = fake.profile.struct('domain').field('arch.hvm.irq_lock').offset;
    take(fake.dom0.domain + BigInt(pvOnly));
    expect(held().filter((name) => name.includes('arch.hvm'))).toEqual([]);
    take(fake.fieldAt('domain', fake.hvm.domain, 'arch.hvm.irq_lock'));
    expect(held()).toContain('d1 arch.hvm.irq_lock');
  });
});
