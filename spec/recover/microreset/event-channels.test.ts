import { beforeEach, describe, expect, it } from 'vitest';
import { eventChannels } from '../../../src/recover/microreset/event-channels.js';
import { newBucket } from '../../support/fake-channels.js';
import { FakeEvents } from '../../support/fake-events.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const BUCKET = 64;
const INTERDOMAIN = 3;
let fake: FakeXen;
let own: bigint;
let other: bigint;

beforeEach(() => {
  fake = new FakeXen();
  const size = BigInt(fake.profile.struct('evtchn').size);
  own = newBucket(fake, fake.dom0.domain, BUCKET) + 3n * size;
  other = newBucket(fake, fake.hvm.domain, BUCKET) + 5n * size;
  fake.enterXen(0, 'evtchn_send');
});

const told = (): unknown[] =>
  planWith(fake, eventChannels).plan.edits.flatMap((edit) =>
    edit.kind === 'call' ? [[edit.function, ...edit.arguments]] : [],
  );

describe('event-channels', () => {
  it('has a vCPU look at its events when the lock of one of its channels was held', () => {
    fake.set('evtchn', own, 'lock.cnts', 1);
    expect(told()).toEqual([['vcpu_mark_events_pending', fake.dom0.address]]);
  });

  it('looks at the other end as well: a sender holds the lock of its own', () => {
    fake.set('evtchn', own, 'lock.cnts', 1);
    fake.set('evtchn', own, 'state', INTERDOMAIN);
    fake.set('evtchn', own, 'u.interdomain.remote_dom', fake.hvm.domain);
    fake.set('evtchn', own, 'u.interdomain.remote_port', 5);
    fake.set('evtchn', other, 'notify_vcpu_id', 0);
    expect(told()).toEqual([
      ['vcpu_mark_events_pending', fake.dom0.address],
      ['vcpu_mark_events_pending', fake.hvm.address],
    ]);
    const info = fake.get('vcpu', fake.hvm.address, 'vcpu_info');
    const { after } = planWith(fake, eventChannels);
    expect(after.object('vcpu_info', info).u64('evtchn_pending_sel')).toBe(0xffff_ffff_ffff_ffffn);
  });

  it('finds nothing while no channel is locked', () => {
    expect(planWith(fake, eventChannels).plan.edits).toEqual([]);
  });

  describe('of a virtual interrupt', () => {
    const VIRQ = 5;
    const TIMER = 0;
    const bound = (): number =>
      planWith(fake, eventChannels).after.object('vcpu', fake.dom0.address).num('virq_to_evtchn[0]');
    beforeEach(() => {
      fake.set('evtchn', own, 'state', VIRQ);
      fake.set('evtchn', own, 'u.virq', TIMER);
      fake.set('evtchn', own, 'notify_vcpu_id', 0);
    });

    it('are left alone where it goes to a channel that is for it', () => {
      fake.set('vcpu', fake.dom0.address, 'virq_to_evtchn[0]', 3);
      expect(planWith(fake, eventChannels).plan.edits).toEqual([]);
    });

    it('are found where it went to one that is not, or to none', () => {
      for (const wrong of [2, 3 | (1 << 28)]) {
        fake.set('vcpu', fake.dom0.address, 'virq_to_evtchn[0]', wrong);
        expect(bound()).toBe(3);
      }
    });

    it('are not made up: a number that is none becomes 0, and another channel is not judged', () => {
      fake.set('evtchn', own, 'state', INTERDOMAIN);
      fake.set('vcpu', fake.dom0.address, 'virq_to_evtchn[0]', 1 << 28);
      expect(bound()).toBe(0);
      fake.set('vcpu', fake.dom0.address, 'virq_to_evtchn[0]', 2);
      expect(bound()).toBe(2);
    });
  });

  it('gives a guest the events back that Xen was said to consume', () => {
    const VIRQ = 5;
    const consumer = fake.symbol('xen_consumers') + 8n;
    fake.put(consumer, 8, fake.symbol('evtchn_send'));
    const flags = own + BigInt(fake.profile.struct('evtchn').field('xen_consumer').offset);
    for (const [state, value, kept] of [
      [VIRQ, 0xff, 0xf8],
      [INTERDOMAIN, 0x07, 0],
      [INTERDOMAIN, 0x02, 2],
    ] as const) {
      fake.set('evtchn', own, 'state', state);
      fake.put(flags, 1, value);
      const { after, findings } = planWith(fake, eventChannels);
      expect(after.memory.u8(flags)).toBe(kept);
      expect(findings).toEqual(kept === value ? [] : ['Xen consumes no events of d0 (port 3)']);
    }
  });

  it.each([
    ['the last one that waits', [3, 9, 12], 12],
    ['none, when none waits', [], 0],
  ] as const)('takes for the last event of a queue that has none any more %s', (_, ports, last) => {
    const events = new FakeEvents(fake, fake.hvm);
    events.fill(7, ports);
    events.set('queue[7].tail', 70_000);
    const { after, findings } = planWith(fake, eventChannels);
    expect(after.object('evtchn_fifo_vcpu', events.state).num('queue[7].tail')).toBe(last);
    expect(findings).toEqual(['event queue 7 of d1v0: its tail is no event; written again']);
    expect(told()).toEqual([['vcpu_mark_events_pending', fake.hvm.address]]);
  });

  it('writes a control block again that is not the one its queues lead to, and leaves the queues alone', () => {
    const events = new FakeEvents(fake, fake.hvm);
    events.fill(7, [3, 9]);
    events.set('control_block', own);
    const { writes, after, findings } = planWith(fake, eventChannels);
    expect(writes).toHaveLength(1);
    expect(after.object('evtchn_fifo_vcpu', events.state).u64('control_block')).toBe(events.block);
    expect(findings).toEqual(['control block of the events of d1v0 was another; written again']);
  });

  it('has a vCPU look at its events once, however many of its queues were wrong', () => {
    const events = new FakeEvents(fake, fake.hvm);
    for (const priority of [3, 4, 5]) events.set(`queue[${priority}].tail`, 70_000);
    expect(told()).toEqual([['vcpu_mark_events_pending', fake.hvm.address]]);
  });

  it('leaves queues alone that are in order', () => {
    new FakeEvents(fake, fake.hvm).fill(7, [3, 9]);
    expect(planWith(fake, eventChannels).plan.edits).toEqual([]);
  });
});
