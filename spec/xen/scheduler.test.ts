import { beforeEach, describe, expect, it } from 'vitest';
import { runQueues, schedulerKind, schedulerPrivates, schedulerResources } from '../../src/xen/scheduler.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

describe('the scheduler', () => {
  it('has one resource for each CPU', () => {
    expect(schedulerResources(fake.xen()).map((resource) => resource.address)).toEqual(fake.resources);
  });

  it('is known by its short name', () => {
    const xen = fake.xen();
    const [resource] = schedulerResources(xen);
    expect(schedulerKind(xen, resource!)).toBe('credit2');
    const name = xen.object('scheduler', resource!.u64('scheduler')).u64('opt_name');
    fake.putBytes(name, Buffer.from('credit\0'));
    expect(schedulerKind(xen, resource!)).toBe('credit');
    fake.putBytes(name, Buffer.from('null\0'));
    expect(schedulerKind(xen, resource!)).toBe('other');
    expect(schedulerPrivates(xen)).toEqual([]);
  });

  it('has private data once, however many CPUs it schedules, and its run queues', () => {
    const xen = fake.xen();
    expect(schedulerPrivates(xen).map((data) => data.layout.name)).toEqual(['csched2_private']);
    expect(runQueues(xen).map((queue) => queue.address)).toEqual([fake.runQueue]);
  });
});
