import { beforeEach, describe, expect, it } from 'vitest';
import { fixedFields } from '../../../src/recover/microreset/fixed-fields.js';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import type { Step } from '../../../src/recover/step.js';
import { PAGE_SIZE } from '../../../src/x86/address.js';
import { FakeXen } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

/** A step that has CPU 0 call these functions. */
const calling = (...calls: [name: string, args: bigint[]][]): Step => ({
  name: 'calling',
  removes: '',
  source: '',
  run: ({ plan }) => {
    for (const [name, args] of calls) plan.call(0, name, args, 'for the test');
  },
});

interface Visit {
  readonly at: string;
  readonly rsp: bigint;
  readonly rdi: bigint;
  readonly rsi: bigint;
  readonly rbx: bigint;
}

/** Goes the way of a CPU: loads a frame at its stack pointer, "calls" the function there, returns, loads the next. */
function walk({ plan, after }: Outcome, cpu: number): Visit[] {
  const placed = plan.edits.filter((edit) => edit.kind === 'registers').find((edit) => edit.cpu === cpu);
  const exit = fake.symbol('restore_all_xen');
  let { rip, rsp } = placed!.set as { rip: bigint; rsp: bigint };
  const visits: Visit[] = [];
  while (rip === exit && visits.length < 20) {
    const frame = after.object('cpu_user_regs', rsp);
    expect(frame.num('cs')).toBe(0xe008);
    expect(frame.u64('rflags')).toBe(2n);
    rsp = frame.u64('rsp');
    const [rdi, rsi, rbx] = ['rdi', 'rsi', 'rbx'].map((name) => frame.u64(name));
    visits.push({ at: fake.profile.describe(frame.u64('rip')), rsp, rdi: rdi!, rsi: rsi!, rbx: rbx! });
    rip = after.memory.u64(rsp);
    rsp += 8n;
  }
  return visits;
}

/** A page table that maps what Xen's own does, as those of vCPUs do. */
function anotherPageTable(): bigint {
  const { memory } = fake.xen();
  const table = fake.alloc(PAGE_SIZE, PAGE_SIZE);
  fake.putBytes(table, [...memory.bytes(fake.symbol('idle_pg_table'), PAGE_SIZE)]);
  return BigInt(memory.physicalAddress(table));
}

/** What the plan has a CPU run on. */
function pageTableSet(cpu: number): bigint | undefined {
  const { edits } = planWith(fake, placeCpus).plan;
  return edits.filter((edit) => edit.kind === 'registers').find((edit) => edit.cpu === cpu)!.set.cr3;
}

describe('place-cpus', () => {
  it('sends a PV vCPU to the end of a context switch to it, with only the guest’s frame on its stack', () => {
    fake.enterXen(0, 'do_sched_op');
    const [only, ...more] = walk(planWith(fake, placeCpus), 0);
    expect(only).toMatchObject({ at: 'continue_pv_domain', rsp: fake.frame(0) - 8n });
    expect(more).toEqual([]);
  });

  it('keeps the page table of a CPU in an open switch: its descriptor table is mapped by it', () => {
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', 0x5fdb_4000n);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.hvm.address);
    fake.enterXen(0, '__context_switch');
    const other = anotherPageTable();
    Object.assign(fake.registers(0), { cr3: other });
    expect(pageTableSet(0)).toBe(other);
  });

  it('gives a CPU on a page table without Xen the one of what is loaded, and Xen’s own where that has none', () => {
    const own = anotherPageTable();
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', own);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.hvm.address);
    fake.enterXen(0, '__context_switch');
    Object.assign(fake.registers(0), { cr3: 0n });
    expect(pageTableSet(0)).toBe(own);
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', 0n);
    expect(pageTableSet(0)).toBe(BigInt(fake.xen().memory.physicalAddress(fake.symbol('idle_pg_table'))));
  });

  it('gives an idle CPU the page table that was written again', () => {
    fake.run(1, fake.idle[1]!);
    fake.set('vcpu', fake.idle[1]!.address, 'arch.cr3', fake.symbol('do_page_fault'));
    fake.enterXen(1, 'vcpu_wake');
    const { edits } = planWith(fake, fixedFields, placeCpus).plan;
    const placed = edits.filter((edit) => edit.kind === 'registers').find((edit) => edit.cpu === 1);
    expect(placed!.set.cr3).toBe(BigInt(fake.xen().memory.physicalAddress(fake.symbol('idle_pg_table'))));
  });

  it('takes a CPU back to Xen’s privilege level that had left it', () => {
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', 0x5fdb_4000n);
    Object.assign(fake.registers(1), { cs: 0x33, cr3: 0x5fdb_4000n });
    const placed = planWith(fake, placeCpus).plan.edits.find((edit) => edit.kind === 'registers' && edit.cpu === 1);
    expect(placed).toMatchObject({ set: { cs: 0xe008, ss: 0 } });
  });

  it('sends an HVM vCPU and an idle one where theirs go', () => {
    fake.enterXen(1, 'vcpu_wake');
    expect(walk(planWith(fake, placeCpus), 1).map((visit) => visit.at)).toEqual(['svm_do_resume']);
    fake.run(1, fake.idle[1]!);
    fake.enterXen(1, 'vcpu_wake');
    expect(walk(planWith(fake, placeCpus), 1).map((visit) => visit.at)).toEqual(['idle_loop']);
  });

  it('strings the calls of the plan together, in order, each with its arguments, before the destination', () => {
    fake.enterXen(0, 'do_sched_op');
    const outcome = planWith(fake, calling(['vcpu_wake', [7n]], ['cpu_raise_softirq', [1n, 3n]]), placeCpus);
    const visits = walk(outcome, 0);
    expect(visits.map(({ at, rdi, rsi }) => [at, rdi, rsi])).toEqual([
      ['vcpu_wake', 7n, 0n],
      ['cpu_raise_softirq', 1n, 3n],
      ['continue_pv_domain', 0n, 0n],
    ]);
  });

  it('leaves the guest’s frame as it is', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.setHypercall(0, 29);
    const length = fake.profile.struct('cpu_user_regs').field('es').offset;
    const before = fake.xen().memory.bytes(fake.frame(0), length);
    const { after } = planWith(fake, calling(['vcpu_wake', [7n]]), placeCpus);
    expect(after.memory.bytes(fake.frame(0), length)).toEqual(before);
  });

  it('refuses more calls than the stack has room for', () => {
    fake.enterXen(0, 'do_sched_op');
    const many = Array.from({ length: 40 }, (): [string, bigint[]] => ['vcpu_wake', [1n]]);
    const { plan } = planWith(fake, calling(...many), placeCpus);
    expect(plan.problems.map((problem) => problem.message)).toContainEqual(expect.stringMatching(/CPU 0 .* 40 calls/));
  });

  it('goes on with interrupts off and on the page tables of the vCPU whose state is loaded', () => {
    fake.enterXen(0, 'do_sched_op');
    const { plan } = planWith(fake, placeCpus);
    const [placed] = plan.edits.filter((edit) => edit.kind === 'registers');
    expect(placed!.set).toMatchObject({ rflags: 2, cr3: fake.get('vcpu', fake.dom0.address, 'arch.cr3') });
  });

  it('names a valid current vCPU again where that pointer was ruined', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('cpu_info', fake.frame(0), 'current_vcpu', 0x1234n);
    const { after } = planWith(fake, placeCpus);
    expect(after.object('cpu_info', fake.frame(0)).u64('current_vcpu')).toBe(fake.dom0.address);
  });

  it('leaves a CPU in its guest where it is', () => {
    expect(planWith(fake, placeCpus).plan.edits).toEqual([]);
  });
});
