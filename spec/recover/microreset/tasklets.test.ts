import { beforeEach, describe, expect, it } from 'vitest';
import { tasklets } from '../../../src/recover/microreset/tasklets.js';
import { closedList } from '../../../src/xen/list.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
let tasklet: bigint;
let queue: bigint;
beforeEach(() => {
  fake = new FakeXen();
  fake.enterXen(0, 'do_sched_op');
  tasklet = fake.symbol('notify_dom0_con_ring_tasklet');
  queue = fake.perCpu('softirq_tasklet_list', 1);
  fake.set('tasklet', tasklet, 'scheduled_on', -1);
  fake.set('tasklet', tasklet, 'is_softirq', 1);
  fake.link(fake.fieldAt('tasklet', tasklet, 'list'));
});

/** It waits on CPU 1. */
function wait(): void {
  fake.link(queue, [fake.fieldAt('tasklet', tasklet, 'list')]);
  fake.set('tasklet', tasklet, 'scheduled_on', 1);
}

describe('tasklets', () => {
  it('has one run again that was cut off', () => {
    fake.set('tasklet', tasklet, 'is_running', 1);
    const { calls, after } = planWith(fake, tasklets);
    expect(calls.map((call) => [call.function, ...call.arguments])).toEqual([['tasklet_schedule', tasklet]]);
    expect(after.object('tasklet', tasklet).bool('is_running')).toBe(false);
  });

  it('leaves those alone that wait in a list that is whole', () => {
    wait();
    const { calls, writes } = planWith(fake, tasklets);
    expect([calls, writes]).toEqual([[], []]);
  });

  it.each(['next', 'prev'] as const)(
    'empties a list whose %s leads nowhere, and schedules those anew that were on it',
    (link) => {
      wait();
      fake.put(queue + (link === 'next' ? 0n : 8n), 8, 0xff83_0238_4391_d000n);
      const { calls, after } = planWith(fake, tasklets);
      expect(closedList(after.memory, queue)).toEqual({ nodes: [], broken: undefined });
      expect(calls.map((call) => [call.function, ...call.arguments])).toEqual([['tasklet_schedule', tasklet]]);
    },
  );
});
