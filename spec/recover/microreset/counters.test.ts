import { beforeEach, describe, expect, it } from 'vitest';
import { perCpuState } from '../../../src/recover/microreset/per-cpu-state.js';
import { rendezvous } from '../../../src/recover/microreset/rendezvous.js';
import { softirqs } from '../../../src/recover/microreset/softirqs.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});
const irqStat = (cpu: number): bigint =>
  fake.symbol('irq_stat') + BigInt(cpu * fake.profile.struct('irq_cpustat_t').size);

describe('per-cpu-state', () => {
  it('clears what an abandoned CPU counted, and what one counted that is in its guest', () => {
    fake.enterXen(0, 'do_sched_op');
    for (const cpu of [0, 1]) {
      fake.set('irq_cpustat_t', irqStat(cpu), '__local_irq_count', 2);
      fake.put(fake.perCpu('__preempt_count', cpu), 4, 3);
      fake.put(fake.perCpu('rcu_lock_cnt', cpu), 4, 1);
      fake.put(fake.perCpu('mm_lock_level', cpu), 4, 8);
      fake.put(fake.perCpu('grant_rwlock', cpu), 8, 0x1234);
    }
    const { after, findings } = planWith(fake, perCpuState);
    const counts = (cpu: number) => [
      after.object('irq_cpustat_t', irqStat(cpu)).num('__local_irq_count'),
      ...(['__preempt_count', 'rcu_lock_cnt', 'mm_lock_level', 'grant_rwlock'] as const).map((name) =>
        after.memory.u32(fake.perCpu(name, cpu)),
      ),
    ];
    expect(counts(0)).toEqual([0, 0, 0, 0, 0]);
    expect(counts(1)).toEqual([0, 0, 0, 0, 0]);
    const all = 'IRQ nesting, __preempt_count, rcu_lock_cnt, mm_lock_level, grant_rwlock cleared';
    expect(findings).toEqual([`CPU 0: ${all}`, `CPU 1: ${all}`]);
  });

  it('finds nothing on a CPU that counted nothing', () => {
    fake.enterXen(0, 'do_sched_op');
    expect(planWith(fake, perCpuState)).toMatchObject({ findings: [], writes: [] });
  });
});

describe('softirqs', () => {
  it('drops those that have no handler, and that of an NMI which there was not', () => {
    fake.enterXen(0, 'do_sched_op');
    const [nmi, known, unknown] = [1 << 6, 1 << 9, (1 << 31) | (1 << 11)];
    fake.set('irq_cpustat_t', irqStat(1), '__softirq_pending', nmi | known | unknown);
    const first = planWith(fake, softirqs);
    expect(first.after.object('irq_cpustat_t', irqStat(1)).num('__softirq_pending')).toBe(known);
    expect(first.findings[0]).toBe('CPU 1: softirqs 6, 11, 31 have nothing to do');
    fake.put(fake.perCpu('softirq_nmi_vcpu', 1), 8, fake.dom0.address);
    const second = planWith(fake, softirqs);
    expect(second.after.object('irq_cpustat_t', irqStat(1)).num('__softirq_pending')).toBe(nmi | known);
  });

  it('raises the deferred work of abandoned CPUs and keeps what was raised', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('irq_cpustat_t', irqStat(0), '__softirq_pending', 1 << 9);
    const { after } = planWith(fake, softirqs);
    const pending = after.object('irq_cpustat_t', irqStat(0)).num('__softirq_pending');
    for (const name of ['TIMER_SOFTIRQ', 'RCU_SOFTIRQ', 'SCHEDULE_SOFTIRQ', 'TASKLET_SOFTIRQ']) {
      expect(pending & (1 << fake.profile.enumValue(name)), name).not.toBe(0);
    }
    expect(pending & (1 << 9)).not.toBe(0);
    expect(pending & (1 << fake.profile.enumValue('SCHED_SLAVE_SOFTIRQ'))).toBe(0);
    expect(after.object('irq_cpustat_t', irqStat(1)).num('__softirq_pending')).toBe(0);
  });

  it('has an abandoned CPU wake those that wait outside Xen', () => {
    fake.enterXen(0, 'do_sched_op');
    const calls = planWith(fake, softirqs).calls.map(({ cpu, function: name, arguments: args }) => [
      cpu,
      name,
      args[0],
    ]);
    expect(calls).toEqual([
      [0, 'cpu_raise_softirq', 1n],
      [0, 'cpu_raise_softirq', 1n],
    ]);
  });

  it('asks nobody when no CPU was in Xen, and has each look again when it enters Xen', () => {
    fake.set('irq_cpustat_t', irqStat(1), '__softirq_pending', 1 << 9);
    const { calls, after } = planWith(fake, softirqs);
    expect(calls).toEqual([]);
    const again = ['TIMER_SOFTIRQ', 'SCHEDULE_SOFTIRQ'].reduce(
      (bits, name) => bits | (1 << fake.profile.enumValue(name)),
      0,
    );
    const pending = [0, 1].map((cpu) => after.object('irq_cpustat_t', irqStat(cpu)).num('__softirq_pending'));
    expect(pending).toEqual([again, again | (1 << 9)]);
  });
});

describe('rendezvous', () => {
  it('withdraws calls and flushes in flight', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('call_data_struct', fake.symbol('call_data'), 'selected.bits[0]', 2);
    fake.put(fake.symbol('flush_cpumask'), 8, 3);
    const { after, findings } = planWith(fake, rendezvous);
    expect(after.object('call_data_struct', fake.symbol('call_data')).u64('selected.bits[0]')).toBe(0n);
    expect(after.memory.u64(fake.symbol('flush_cpumask'))).toBe(0n);
    expect(findings).toHaveLength(2);
  });

  it('tells CPUs that would take part in a stop of the machine that it is over', () => {
    const stop = fake.symbol('stopmachine_data');
    expect(planWith(fake, rendezvous).findings).toEqual([]);
    fake.set('stopmachine_data', stop, 'nr_cpus', 1);
    fake.set('stopmachine_data', stop, 'state', 2);
    const { after, findings } = planWith(fake, rendezvous);
    expect(after.object('stopmachine_data', stop).num('state')).toBe(fake.profile.enumValue('STOPMACHINE_EXIT'));
    expect(findings).toEqual(['a stop of the machine: withdrawn']);
  });

  it('flushes every CPU’s TLB, also those in a guest', () => {
    fake.registers(1).cr3 = 0x1234_5000n;
    const { plan } = planWith(fake, rendezvous);
    const flushed = plan.edits.filter((edit) => edit.kind === 'registers').map(({ cpu, set }) => [cpu, set]);
    expect(flushed).toEqual([
      [0, { cr3: fake.registers(0).cr3 }],
      [1, { cr3: 0x1234_5000n }],
    ]);
  });
});
