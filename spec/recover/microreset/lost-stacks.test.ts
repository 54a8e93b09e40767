import { beforeEach, describe, expect, it } from 'vitest';
import { cpuInfo } from '../../../src/recover/microreset/cpu-info.js';
import { lostStacks } from '../../../src/recover/microreset/lost-stacks.js';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  fake.putBytes(fake.symbol('__x86_return_thunk') - 1n, [0xcc, 0xc3]);
});

describe('lost-stacks', () => {
  it('has a CPU whose stack pointer is not on its stack deliver a breakpoint before all else', () => {
    fake.enterXen(1, 'vcpu_wake');
    Object.assign(fake.registers(1), { rsp: 0xfff7_8300_79f0_7d70n });
    const { plan, after } = planWith(fake, lostStacks, placeCpus);
    expect(plan.steps[0]!.findings).toEqual(['CPU 1: its stack pointer was 0xfff7830079f07d70']);
    const placed = plan.edits.find((edit) => edit.kind === 'registers' && edit.cpu === 1);
    const first = (placed as { set: { rsp: bigint } }).set.rsp;
    expect(after.object('cpu_user_regs', first).u64('rip')).toBe(fake.symbol('__x86_return_thunk') - 1n);
  });

  it('has one that fetched through a page table without Xen do so as well, whatever its stack pointer', () => {
    fake.enterXen(1, 'vcpu_wake');
    Object.assign(fake.registers(1), { cr3: 0n });
    const { plan } = planWith(fake, lostStacks);
    expect(plan.steps[0]!.findings).toEqual(['CPU 1: its page table, at 0x0, did not map Xen']);
    expect(plan.edits).toMatchObject([{ kind: 'call', cpu: 1, function: '__x86_return_thunk' }]);
  });

  it('leaves alone who stands on its stack, and a guest whatever its stack pointer', () => {
    fake.enterXen(0, 'vcpu_wake');
    expect(planWith(fake, lostStacks).plan.edits).toEqual([]);
  });

  it('calls nothing in a build without that breakpoint', () => {
    fake.putBytes(fake.symbol('__x86_return_thunk') - 1n, [0x90]);
    fake.enterXen(1, 'vcpu_wake');
    Object.assign(fake.registers(1), { rsp: 8n });
    const { plan } = planWith(fake, lostStacks);
    expect(plan.steps[0]!.findings).toHaveLength(1);
    expect(plan.edits).toEqual([]);
  });
});

describe('cpu-info', () => {
  it('writes again what a CPU knows itself by', () => {
    fake.enterXen(0, 'vcpu_wake');
    const info = fake.frame(0);
    const offset = fake.get('cpu_info', info, 'per_cpu_offset');
    fake.set('cpu_info', info, 'processor_id', 7);
    fake.set('cpu_info', info, 'per_cpu_offset', 0xbadn);
    const { after } = planWith(fake, cpuInfo);
    expect(after.object('cpu_info', info).num('processor_id')).toBe(0);
    expect(after.object('cpu_info', info).u64('per_cpu_offset')).toBe(offset);
  });

  it('writes the table of where per-CPU data are again, from the stack, where these lead to the data of the CPU', () => {
    const rcu = fake.perCpu('rcu_data', 1);
    fake.set('rcu_data', rcu, 'cpu', 1);
    fake.set('timer', fake.fieldAt('rcu_data', rcu, 'idle_timer'), 'data', rcu);
    const table = fake.xen().perCpuOffsetAt(1);
    const offset = fake.xen().perCpuOffset(1);
    for (const wrong of [offset - 1n, 0x9en, 0xffff_ffff_ffff_f000n]) {
      fake.put(table, 8, wrong);
      const { after, findings } = planWith(fake, cpuInfo);
      expect(findings).toEqual(['CPU 1: where its per-CPU data are, in the table of all CPUs, written again']);
      expect(after.memory.u64(table)).toBe(offset);
      expect(after.object('cpu_info', fake.frame(1)).u64('per_cpu_offset')).toBe(offset);
    }
  });

  it('has a CPU return to its guest on the guest’s own page table, unless Xen keeps a second one', () => {
    fake.enterXen(0, 'vcpu_wake');
    fake.set('cpu_info', fake.frame(0), 'pv_cr3', 0xffff_fffen);
    const { after, findings } = planWith(fake, cpuInfo);
    expect(findings).toEqual(['CPU 0: page table of its guest written again']);
    expect(after.object('cpu_info', fake.frame(0)).u64('pv_cr3')).toBe(0n);
    fake.set('domain', fake.dom0.domain, 'arch.pv.xpti', 1);
    expect(planWith(fake, cpuInfo).plan.edits).toEqual([]);
  });

  it('takes how a CPU is kept from speculation from another one, where other words were written over as well', () => {
    fake.enterXen(0, 'vcpu_wake');
    const [mine, other] = [fake.frame(0), fake.frame(1)];
    fake.set('cpu_info', other, 'verw_sel', 0xe010);
    fake.set('cpu_info', other, 'scf', 5);
    fake.set('cpu_info', mine, 'scf', 2);
    expect(planWith(fake, cpuInfo).plan.edits).toEqual([]);
    fake.set('cpu_info', mine, 'processor_id', 7);
    const info = planWith(fake, cpuInfo).after.object('cpu_info', mine);
    expect([info.num('verw_sel'), info.num('scf')]).toEqual([0xe010, 4]);
  });

  it('finds nothing on a CPU that is as it should be', () => {
    fake.enterXen(0, 'vcpu_wake');
    expect(planWith(fake, cpuInfo).plan.edits).toEqual([]);
  });
});
