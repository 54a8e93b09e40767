import { beforeEach, describe, expect, it } from 'vitest';
import { fixedFields } from '../../../src/recover/microreset/fixed-fields.js';
import { closedList } from '../../../src/xen/list.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  expect(planWith(fake, fixedFields).findings).toEqual([]);
});

const timerOf = (vcpu: bigint, field: string): bigint => fake.fieldAt('vcpu', vcpu, field);

/** A timer as `init_timer` leaves it. */
function make(timer: bigint, fields: Readonly<Record<string, bigint | number>>): void {
  for (const [field, value] of Object.entries({ status: 1, cpu: 0, ...fields })) fake.set('timer', timer, field, value);
}

describe('fixed-fields', () => {
  it('gives a vCPU its number and its domain back', () => {
    fake.set('vcpu', fake.dom0.address, 'vcpu_id', 0x20000);
    fake.set('vcpu', fake.hvm.address, 'domain', 0x1234);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['d0v0: number written again', 'd1v0: domain written again']);
    expect(after.object('vcpu', fake.dom0.address).num('vcpu_id')).toBe(0);
    expect(after.object('vcpu', fake.hvm.address).u64('domain')).toBe(fake.hvm.domain);
  });

  it('gives a domain its number of vCPUs back, which its table tells', () => {
    fake.set('domain', fake.dom0.domain, 'max_vcpus', 0xffff_82d0);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['d0: number of vCPUs written again']);
    expect(after.object('domain', fake.dom0.domain).num('max_vcpus')).toBe(1);
  });

  it('gives an idle vCPU its page table back', () => {
    fake.set('vcpu', fake.idle[1]!.address, 'arch.cr3', fake.symbol('do_page_fault'));
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['d[IDLE]v1: page table written again']);
    expect(after.object('vcpu', fake.idle[1]!.address).u64('arch.cr3')).toBe(
      BigInt(after.memory.physicalAddress(fake.symbol('idle_pg_table'))),
    );
  });

  it('gives a scheduling unit its domain back', () => {
    fake.set('sched_unit', fake.dom0.unit, 'domain', 0x300000000n);
    const { after } = planWith(fake, fixedFields);
    expect(after.object('sched_unit', fake.dom0.unit).u64('domain')).toBe(fake.dom0.domain);
  });

  it('gives a vCPU its own scheduling unit back, which its domain lists, where it was given an idle one', () => {
    fake.set('vcpu', fake.dom0.address, 'sched_unit', fake.idle[0]!.unit);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['d0v0: scheduling unit written again']);
    expect(after.object('vcpu', fake.dom0.address).u64('sched_unit')).toBe(fake.dom0.unit);
    expect(after.object('sched_unit', fake.idle[0]!.unit).u64('vcpu_list')).toBe(fake.idle[0]!.address);
  });

  it('gives the idle vCPU its own unit back where it ran in a guest’s, and leaves that one alone', () => {
    fake.set('vcpu', fake.idle[0]!.address, 'sched_unit', fake.dom0.unit);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['d[IDLE]v0: scheduling unit written again']);
    expect(after.object('vcpu', fake.idle[0]!.address).u64('sched_unit')).toBe(fake.idle[0]!.unit);
    const unit = after.object('sched_unit', fake.dom0.unit);
    expect([unit.u64('domain'), unit.u64('vcpu_list')]).toEqual([fake.dom0.domain, fake.dom0.address]);
  });

  it('gives a CPU pool its scheduler and its CPUs back, and the scheduler what it calls', () => {
    const scheduler = fake.get('cpupool', fake.pool, 'sched');
    const data = fake.get('scheduler', scheduler, 'sched_data');
    const masks = ['cpu_valid', 'res_valid'].map((field) => fake.get('cpupool', fake.pool, field));
    fake.set('cpupool', fake.pool, 'sched', 0xffff7a9b93858877n);
    fake.set('scheduler', scheduler, 'cpupool', 0x60911);
    fake.set('scheduler', scheduler, 'wake', 0x1234);
    fake.put(masks[0]! + 24n, 4, 0x10001);
    fake.put(masks[1]!, 1, 0xb2);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual([
      "CPU pool 0: what its scheduler calls, its scheduler's pool, scheduler, CPUs, scheduling resources written again",
    ]);
    expect(after.object('cpupool', fake.pool).u64('sched')).toBe(scheduler);
    const table = after.object('scheduler', scheduler);
    expect(table.u64('wake')).toBe(fake.symbol('csched2_unit_wake'));
    expect([table.u64('cpupool'), table.u64('sched_data')]).toEqual([fake.pool, data]);
    for (const mask of masks) expect([...after.memory.bytes(mask, 32)]).toEqual([3, ...Array<number>(31).fill(0)]);
  });

  it('leaves the masks of a pool alone while a CPU is moved to another one', () => {
    fake.put(fake.symbol('cpupool_cpu_moving'), 8, fake.pool);
    fake.put(fake.get('cpupool', fake.pool, 'cpu_valid'), 1, 1);
    expect(planWith(fake, fixedFields)).toMatchObject({ findings: [], writes: [] });
  });

  it('has credit2 find its data again, from the run queue that CPUs name', () => {
    const scheduler = fake.get('sched_resource', fake.resources[0]!, 'scheduler');
    const data = fake.get('scheduler', scheduler, 'sched_data');
    fake.set('scheduler', scheduler, 'sched_data', fake.dom0.svc);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['CPU pool 0: where its data are written again']);
    expect(after.object('scheduler', scheduler).u64('sched_data')).toBe(data);
    fake.put(fake.fieldAt('csched2_private', data, 'rql'), 8, 0x1234);
    expect(planWith(fake, fixedFields).findings).toEqual([]);
  });

  it('links the list of CPU pools anew, unless there are more than CPUs and domains name', () => {
    const node = fake.fieldAt('cpupool', fake.pool, 'list');
    fake.put(node + 8n, 8, 0x60911);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['list of CPU pools: a backward link differs from the forward one; linked anew']);
    expect(closedList(after.memory, fake.symbol('cpupool_list'))).toEqual({ nodes: [node], broken: undefined });
    fake.put(fake.symbol('n_cpupools'), 4, 2);
    expect(planWith(fake, fixedFields).findings).toEqual([]);
  });

  it('believes in no pool that only one names', () => {
    const elsewhere = fake.new('cpupool');
    fake.set('sched_resource', fake.resources[1]!, 'cpupool', elsewhere);
    const { writes } = planWith(fake, fixedFields);
    expect(writes.some(({ address }) => address >= elsewhere && address < elsewhere + 72n)).toBe(false);
  });

  it('has vCPUs and units of a domain follow each other by their numbers', () => {
    const [first, second] = fake.idle;
    fake.set('vcpu', first!.address, 'next_in_list', 0x240be4d0);
    fake.set('sched_unit', second!.unit, 'next_in_list', 0x9e);
    fake.set('domain', fake.hvm.domain, 'sched_unit_list', 0);
    const { after } = planWith(fake, fixedFields);
    expect(after.object('vcpu', first!.address).u64('next_in_list')).toBe(second!.address);
    expect(after.object('sched_unit', second!.unit).u64('next_in_list')).toBe(fake.idle[2]?.unit ?? 0n);
    expect(after.object('domain', fake.hvm.domain).u64('sched_unit_list')).toBe(fake.hvm.unit);
  });

  it('gives a scheduling resource the CPU back that it stands for', () => {
    fake.put(fake.fieldAt('sched_resource', fake.resources[1]!, 'master_cpu'), 8, 0x4_7c3d_1c77n);
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['scheduling of CPU 1: first CPU, number of CPUs written again']);
    const resource = after.object('sched_resource', fake.resources[1]!);
    expect([resource.num('master_cpu'), resource.num('granularity')]).toEqual([1, 1]);
  });

  it('has a timer call what it is there to call, with its argument, on a CPU that there is', () => {
    const timer = timerOf(fake.dom0.address, 'singleshot_timer');
    make(timer, { function: fake.symbol('s_timer_fn'), data: 0x50, cpu: 0xd8d8, status: 0x82 });
    const { after } = planWith(fake, fixedFields);
    const repaired = after.object('timer', timer);
    expect(repaired.u64('function')).toBe(fake.symbol('vcpu_singleshot_timer_fn'));
    expect([repaired.u64('data'), repaired.num('cpu'), repaired.num('status')]).toEqual([fake.dom0.address, 0, 0]);
  });

  it('makes the timers of a CPU again of which nothing is left', () => {
    const timer = fake.fieldAt('sched_resource', fake.resources[1]!, 's_timer');
    fake.putBytes(timer, new Array(48).fill(0));
    const { after, findings } = planWith(fake, fixedFields);
    expect(findings).toEqual(['s_timer of CPU 1: function, CPU written again']);
    const repaired = after.object('timer', timer);
    expect([repaired.u64('function'), repaired.num('cpu')]).toEqual([fake.symbol('s_timer_fn'), 1]);
  });

  it('leaves a timer alone that nobody made, and one that was killed', () => {
    make(timerOf(fake.dom0.address, 'poll_timer'), {
      function: fake.symbol('poll_timer_fn'),
      data: fake.dom0.address,
      cpu: 0xffff,
      status: 2,
    });
    expect(planWith(fake, fixedFields).writes).toEqual([]);
  });
});
