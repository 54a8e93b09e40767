import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { lostWakeups } from '../../../src/recover/microreset/lost-wakeups.js';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import { scheduling } from '../../../src/recover/microreset/scheduling.js';
import { closedList } from '../../../src/xen/list.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});
const runq = (): bigint => fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'runq');
const element = (svc: bigint): bigint => fake.fieldAt('csched2_unit', svc, 'runq_elem');

describe('scheduling', () => {
  it('changes nothing where all copies agree', () => {
    expect(planWith(fake, scheduling)).toMatchObject({ findings: [], writes: [] });
  });

  it('believes what each CPU’s stack says it runs', () => {
    fake.set('sched_resource', fake.resources[0]!, 'curr', fake.idle[0]!.unit);
    fake.set('vcpu', fake.dom0.address, 'is_running', 0);
    fake.set('sched_unit', fake.dom0.unit, 'is_running', 0);
    fake.set('vcpu', fake.idle[0]!.address, 'is_running', 1);
    const { after, findings } = planWith(fake, scheduling);
    expect(after.object('sched_resource', fake.resources[0]!).u64('curr')).toBe(fake.dom0.unit);
    expect(after.object('vcpu', fake.dom0.address).bool('is_running')).toBe(true);
    expect(after.object('sched_unit', fake.dom0.unit).bool('is_running')).toBe(true);
    expect(after.object('vcpu', fake.idle[0]!.address).bool('is_running')).toBe(false);
    expect(findings).toContain('CPU 0 runs d0v0');
    expect(findings).toContain('d0v0 runs on CPU 0');
  });

  it('has no CPU come from a unit that may run elsewhere by now', () => {
    fake.set('sched_resource', fake.resources[0]!, 'prev', fake.hvm.unit);
    expect(planWith(fake, scheduling).after.object('sched_resource', fake.resources[0]!).u64('prev')).toBe(0n);
  });

  it('lets a vCPU that was to be moved run again where it is', () => {
    fake.run(1, fake.idle[1]!);
    fake.set('vcpu', fake.hvm.address, 'pause_flags', 8);
    expect(planWith(fake, scheduling).after.object('vcpu', fake.hvm.address).u64('pause_flags')).toBe(0n);
  });

  it('gives CPUs and units their run queue back where they name none', () => {
    const [resource] = fake.resources;
    const pcpu = fake.get('sched_resource', resource!, 'sched_priv');
    fake.set('csched2_pcpu', pcpu, 'rqd', fake.runQueue - 0x48n);
    fake.set('sched_resource', resource!, 'schedule_lock', fake.runQueue + 0x48n);
    fake.set('csched2_unit', fake.hvm.svc, 'rqd', 0x46);
    fake.set('csched2_unit', fake.hvm.svc, 'unit', fake.dom0.unit);
    fake.set('csched2_unit', fake.hvm.svc, 'budget', 0);
    const { after } = planWith(fake, scheduling);
    expect(after.object('csched2_unit', fake.hvm.svc).u64('budget')).toBe(0x7fff_ffff_ffff_ffffn);
    expect(after.object('csched2_pcpu', pcpu).u64('rqd')).toBe(fake.runQueue);
    const lock = fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'lock');
    expect(after.object('sched_resource', resource!).u64('schedule_lock')).toBe(lock);
    expect(after.object('csched2_unit', fake.hvm.svc).u64('rqd')).toBe(fake.runQueue);
    expect(after.object('csched2_unit', fake.hvm.svc).u64('unit')).toBe(fake.hvm.unit);
  });

  it('has a vCPU run again that waits for time, where its time is not limited', () => {
    fake.run(1, fake.idle[1]!);
    fake.set('vcpu', fake.hvm.address, 'pause_flags', 1 << 8);
    const own = fake.fieldAt('csched2_unit', fake.hvm.svc, 'parked_elem');
    const domain = fake.new('csched2_dom');
    fake.set('csched2_unit', fake.hvm.svc, 'sdom', domain);
    const head = fake.fieldAt('csched2_dom', domain, 'parked_units');
    for (const [from, to] of [
      [head, own],
      [own, head],
    ] as const) {
      fake.put(from, 8, to);
      fake.put(to + 8n, 8, from);
    }
    const { after, findings } = planWith(fake, scheduling);
    expect(findings).toContain('d1v0: no longer waits for time');
    expect(after.object('vcpu', fake.hvm.address).u64('pause_flags')).toBe(0n);
    for (const node of [head, own]) expect(after.memory.u64(node)).toBe(node);
    fake.set('csched2_dom', domain, 'cap', 50);
    expect(planWith(fake, scheduling).findings).not.toContain('d1v0: no longer waits for time');
  });

  const privates = (): bigint =>
    fake.get('scheduler', fake.get('sched_resource', fake.resources[0]!, 'scheduler'), 'sched_data');
  const queueList = (): bigint => fake.fieldAt('csched2_private', privates(), 'rql');
  const queueNode = (): bigint => fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'rql');

  it('links the list of run queues anew from those that CPUs name', () => {
    fake.put(queueList(), 8, 0x60911);
    fake.put(queueList() + 8n, 8, 0xffff7cf8525740fbn);
    fake.put(queueNode(), 8, queueList() - 0x30n);
    const { after, findings } = planWith(fake, scheduling);
    expect(findings).toContain('run queues of credit2: a link leads nowhere; linked anew');
    expect(closedList(after.memory, queueList())).toEqual({ nodes: [queueNode()], broken: undefined });
  });

  it('leaves a broken list of run queues to the audit where there are more than CPUs name', () => {
    fake.put(queueNode() + 8n, 8, 0);
    fake.set('csched2_private', privates(), 'active_queues', 2);
    const { plan, after } = planWith(fake, scheduling);
    expect(closedList(after.memory, queueList()).broken).toBeDefined();
    expect(plan.problems.map(({ message }) => message)).toContain(
      'run queues of credit2: a backward link differs from the forward one',
    );
  });

  it('writes no list where nothing but a scheduler’s pointer says that credit2’s data are there', () => {
    const elsewhere = fake.new('csched2_private');
    for (const resource of fake.resources)
      fake.set('scheduler', fake.get('sched_resource', resource, 'scheduler'), 'sched_data', elsewhere);
    const { writes } = planWith(fake, scheduling);
    expect(writes.some(({ address }) => address >= elsewhere && address < elsewhere + 96n)).toBe(false);
  });

  it('has credit2 and each run queue know their CPUs', () => {
    const initialized = fake.fieldAt('csched2_private', privates(), 'initialized');
    const active = fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'active');
    fake.put(initialized, 8, 0xffff_fff8_37f3_10b2n);
    fake.put(active, 1, 1);
    const { after, findings } = planWith(fake, scheduling);
    expect(findings).toEqual(['CPUs that credit2 schedules: written again', 'CPUs of run queue 0: written again']);
    expect([initialized, active].map((mask) => after.memory.u64(mask))).toEqual([3n, 3n]);
  });

  it('counts an idle vCPU as running in its own unit that had run in a guest’s', () => {
    fake.run(1, fake.idle[1]!);
    const { unit } = fake.idle[1]!;
    fake.set('sched_unit', unit, 'runstate_cnt[0]', 0);
    fake.set('sched_unit', unit, 'runstate_cnt[1]', 1);
    fake.set('vcpu', fake.idle[1]!.address, 'new_state', 0x40);
    const { after } = planWith(fake, scheduling);
    const repaired = after.object('sched_unit', unit);
    expect([0, 1, 2, 3].map((n) => repaired.num(`runstate_cnt[${n}]`))).toEqual([1, 0, 0, 0]);
    expect(after.object('vcpu', fake.idle[1]!.address).num('new_state')).toBe(0);
  });

  it('forgets that an abandoned CPU was not to sleep deeply, and keeps whom it waits for', () => {
    fake.enterXen(0, 'default_idle');
    fake.put(fake.perCpu('sched_urgent_count', 0), 4, 2);
    fake.set('vcpu', fake.dom0.address, 'is_urgent', 1);
    const { plan, after } = planWith(fake, scheduling);
    const isAbandoned = plan.cpus[0]!.abandoned;
    expect(isAbandoned).toBe(true);
    expect(after.memory.u32(after.perCpu('sched_urgent_count', 0))).toBe(1);
  });

  it('assigns a running vCPU to the CPU that runs it', () => {
    fake.set('vcpu', fake.dom0.address, 'processor', 1);
    fake.set('sched_unit', fake.dom0.unit, 'res', fake.resources[1]!);
    const { after } = planWith(fake, scheduling);
    expect(after.object('vcpu', fake.dom0.address).num('processor')).toBe(0);
    expect(after.object('sched_unit', fake.dom0.unit).u64('res')).toBe(fake.resources[0]);
  });

  it.each([
    ['blocked', { pause_flags: 1, pause_count: 0 }, 2],
    ['runnable', { pause_flags: 0, pause_count: 0 }, 1],
    ['offline when paused', { pause_flags: 0, pause_count: 1 }, 3],
    ['offline when down', { pause_flags: 2, pause_count: 0 }, 3],
  ])('gives a vCPU that does not run the runstate of one that is %s, and counts it', (_, waiting, state) => {
    fake.run(1, fake.idle[1]!);
    for (const [field, value] of Object.entries(waiting)) fake.set('vcpu', fake.hvm.address, field, value);
    fake.set('vcpu', fake.hvm.address, 'runstate.state', 0);
    for (let n = 0; n < 4; n++) fake.set('sched_unit', fake.hvm.unit, `runstate_cnt[${n}]`, n === 0 ? 1 : 0);
    const { after } = planWith(fake, scheduling);
    expect(after.object('vcpu', fake.hvm.address).num('runstate.state')).toBe(state);
    const unit = after.object('sched_unit', fake.hvm.unit);
    expect([0, 1, 2, 3].map((n) => unit.num(`runstate_cnt[${n}]`))).toEqual(
      [0, 1, 2, 3].map((n) => (n === state ? 1 : 0)),
    );
  });

  it('sets credit2’s flags by who runs', () => {
    const scheduled = 2;
    const delayed = 4;
    const migrate = 8;
    fake.run(1, fake.idle[1]!);
    fake.set('csched2_unit', fake.hvm.svc, 'flags', scheduled | delayed | migrate);
    fake.set('csched2_unit', fake.dom0.svc, 'flags', 0);
    const { after } = planWith(fake, scheduling);
    expect(after.object('csched2_unit', fake.hvm.svc).num('flags')).toBe(migrate);
    expect(after.object('csched2_unit', fake.dom0.svc).num('flags')).toBe(scheduled);
  });

  it('takes a running unit off the run queue and keeps the others on it', () => {
    fake.run(1, fake.idle[1]!);
    fake.link(runq(), [element(fake.dom0.svc), element(fake.hvm.svc)]);
    const { after } = planWith(fake, scheduling);
    expect(closedList(after.memory, runq())).toEqual({ nodes: [element(fake.hvm.svc)], broken: undefined });
    expect(after.memory.u64(element(fake.dom0.svc))).toBe(element(fake.dom0.svc));
  });

  it('makes of any broken run queue a closed one, with the running unit on none', () => {
    const places = [0n, 8n].flatMap((at) => [runq() + at, element(fake.hvm.svc) + at, element(fake.dom0.svc) + at]);
    const value = fc.oneof(
      fc.constantFrom(0n, runq(), element(fake.hvm.svc), element(fake.dom0.svc)),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    );
    fake.run(1, fake.idle[1]!);
    fc.assert(
      fc.property(fc.constantFrom(...places), value, (place, to) => {
        fake.link(element(fake.dom0.svc));
        fake.link(runq(), [element(fake.hvm.svc)]);
        fake.put(place, 8, to);
        const { after, plan } = planWith(fake, scheduling, placeCpus);
        expect(closedList(after.memory, runq()).broken).toBeUndefined();
        expect(after.memory.u64(element(fake.dom0.svc))).toBe(element(fake.dom0.svc));
        expect(plan.problems).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });
});

describe('lost-wakeups', () => {
  it('unblocks blocked vCPUs, wakes the others, and shares the calls out', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.enterXen(1, 'vcpu_wake');
    fake.set('vcpu', fake.hvm.address, 'pause_flags', 1);
    expect(planWith(fake, lostWakeups).calls).toMatchObject([
      { cpu: 0, function: 'vcpu_wake', arguments: [fake.dom0.address] },
      { cpu: 1, function: 'vcpu_unblock', arguments: [fake.hvm.address] },
    ]);
  });

  it('leaves out idle vCPUs and those that were never started', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('vcpu', fake.hvm.address, 'is_initialised', 0);
    expect(planWith(fake, lostWakeups).calls.map((call) => call.arguments[0])).toEqual([fake.dom0.address]);
  });
});
