import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { heapLocksStep, staticLocksStep } from '../../../src/recover/microreset/locks.js';
import { listDomains } from '../../../src/xen/domains.js';
import { heapLocks, isHeld, staticLocks } from '../../../src/xen/locks.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

describe('static-locks', () => {
  it('sets a held spinlock free so that the next ticket is served', () => {
    fake.put(fake.symbol('heap_lock'), 4, 0x0009_0007);
    fake.put(fake.symbol('heap_lock') + 4n, 2, 0x1002);
    const { after, findings } = planWith(fake, staticLocksStep);
    expect(after.memory.u32(fake.symbol('heap_lock'))).toBe(0x0007_0007);
    expect(after.memory.u16(fake.symbol('heap_lock') + 4n)).toBe(0x0fff);
    expect(findings).toEqual(['heap_lock was held']);
  });

  it('leaves free locks untouched', () => {
    fake.put(fake.symbol('heap_lock'), 4, 0x0007_0007);
    expect(planWith(fake, staticLocksStep).writes).toEqual([]);
  });

  it('does not touch locks on the heap', () => {
    fake.put(fake.runQueue, 4, 0x0001_0000);
    expect(planWith(fake, staticLocksStep).writes).toEqual([]);
    expect(planWith(fake, heapLocksStep).findings).toEqual(['run queue lock was held']);
  });
});

describe('heap-locks', () => {
  it('frees read-write locks with the spinlock inside', () => {
    const lock = fake.fieldAt('domain', fake.dom0.domain, 'vnuma_rwlock');
    fake.put(lock, 4, 0x8000);
    fake.put(lock + 4n, 4, 0x0002_0001);
    const { after } = planWith(fake, heapLocksStep);
    expect(after.memory.u32(lock)).toBe(0);
    expect(after.memory.u32(lock + 4n)).toBe(0x0001_0001);
  });

  it('forgets who held a memory-management lock', () => {
    const lock = fake.fieldAt('domain', fake.hvm.domain, 'arch.paging.lock');
    fake.set('mm_lock', lock, 'locker', 1);
    fake.put(lock, 4, 0x0001_0000);
    const { after } = planWith(fake, heapLocksStep);
    expect(after.object('mm_lock', lock).num('locker')).toBe(-1);
    expect(after.memory.u32(lock)).toBe(0);
  });
});

it('whichever locks are held, none is afterwards, and nothing else has changed', () => {
  const xen = fake.xen();
  const all = [...staticLocks(xen), ...heapLocks(xen, listDomains(xen))];
  expect(all.length).toBeGreaterThan(100);
  const subset = fc.subarray(all, { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(subset, (held) => {
      for (const { kind, address } of held) fake.put(kind === 'spinlock' ? address + 2n : address, 2, 0x4000);
      const { after, plan } = planWith(fake, staticLocksStep, heapLocksStep);
      expect(all.filter((lock) => isHeld(after, lock))).toEqual([]);
      expect(plan.problems).toEqual([]);
      const touched = plan.edits.filter((edit) => edit.kind === 'memory').map((edit) => edit.address as bigint);
      expect(touched.every((at) => held.some(({ address }) => at >= address && at < address + 16n))).toBe(true);
      for (const { kind, address } of held) fake.put(kind === 'spinlock' ? address + 2n : address, 2, 0);
    }),
    { numRuns: 25 },
  );
});
