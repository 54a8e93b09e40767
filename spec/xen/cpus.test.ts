import { beforeEach, describe, expect, it } from 'vitest';
import { type CpuState, readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { cpuStack, isReturnAddress } from '../../src/xen/stack.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

function cpu(n: number): CpuState {
  const xen = fake.xen();
  return readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[n]!;
}

describe('cpuStack', () => {
  it('has the guest’s frame at its very top, in cpu_info', () => {
    const stack = cpuStack(fake.xen(), 1);
    expect(stack.end - stack.base).toBe(0x8000n);
    expect(stack.guestFrame).toBe(fake.frame(1));
    expect(stack.info.num('processor_id')).toBe(1);
  });
});

describe('readSituation', () => {
  it('tells guests of both kinds from Xen', () => {
    expect([cpu(0).where, cpu(1).where]).toEqual(['guest', 'guest']);
    fake.enterXen(0, 'do_sched_op');
    fake.enterXen(1, 'vcpu_wake');
    expect([cpu(0).where, cpu(1).where]).toEqual(['xen', 'xen']);
    expect([cpu(0).current.name, cpu(1).current.name]).toEqual(['d0v0', 'd1v0']);
  });

  it('calls an idle CPU halted only behind HLT with interrupts on', () => {
    fake.run(1, fake.idle[1]!);
    expect(cpu(1).where).toBe('halted');
    fake.registers(1).rflags = 2;
    expect(cpu(1).where).toBe('xen');
    fake.registers(1).rflags = 0x202;
    fake.registers(1).rip -= 1n;
    expect(cpu(1).where).toBe('xen');
  });

  it('takes a CPU on Xen’s own page table for an HVM guest as being in Xen, wherever it went', () => {
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', 0x5fdb_4000n);
    Object.assign(fake.registers(1), { cs: 0x33, rip: 0xffff_ffff_ffff_ffffn, cr3: 0x562_4000n });
    expect(cpu(1).where).toBe('guest');
    Object.assign(fake.registers(1), { cr3: 0x5fdb_4000n });
    expect(cpu(1).where).toBe('xen');
  });

  it('takes a CPU in the state of one that was reset for none that runs an HVM guest', () => {
    Object.assign(fake.registers(1), { cs: 0, rip: 0x2b60n, rsp: 0n, cr0: 0x11n, cr3: 0n });
    expect(cpu(1).where).toBe('guest');
    fake.registers(1).efer = 0n;
    expect(cpu(1).where).toBe('xen');
  });

  it('takes a CPU with a ruined instruction pointer on Xen’s stack as being in Xen', () => {
    fake.enterXen(1, 0n);
    expect(cpu(1).where).toBe('xen');
  });

  it('tells whose state is loaded by the page table where the pointer to it is ruined', () => {
    fake.run(0, fake.idle[0]!);
    Object.assign(fake.registers(0), { cr3: fake.get('vcpu', fake.dom0.address, 'arch.cr3') });
    fake.put(fake.perCpu('curr_vcpu', 0), 8, 0xe008n);
    expect([cpu(0).current.name, cpu(0).loaded.name]).toEqual(['d[IDLE]v0', 'd0v0']);
    fake.set('vcpu', fake.hvm.address, 'arch.cr3', fake.registers(0).cr3);
    expect(cpu(0).loaded.name).toBe('d[IDLE]v0');
  });

  it('falls back on what is loaded when the pointer to the current vCPU is ruined', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('cpu_info', fake.frame(0), 'current_vcpu', 0xdead_beefn);
    expect(cpu(0).current.name).toBe('d0v0');
    fake.put(fake.perCpu('curr_vcpu', 0), 8, 0x1234n);
    expect(cpu(0).loaded.name).toBe('d0v0');
    fake.set('sched_resource', fake.resources[0]!, 'curr', 0x1234n);
    expect(cpu(0).current.name).toBe('d[IDLE]v0');
  });

  it('shows the functions on the stack, innermost first, and nothing that is no return address', () => {
    fake.enterXen(0, 'do_sched_op', 0x40);
    fake.put(fake.frame(0) - 0x20n, 8, fake.symbol('lstar_enter') + 5n);
    fake.put(fake.frame(0) - 0x28n, 8, fake.symbol('lstar_enter') + 6n);
    expect(cpu(0).backtrace.map((entry) => entry.text)).toEqual(['do_sched_op', 'lstar_enter+0x5']);
  });

  it('finds the trap that was the failure, outermost last', () => {
    fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x100n });
    const [trap] = cpu(0).traps;
    expect(trap).toMatchObject({ rip: 0n, rsp: fake.frame(0) - 0x100n, vector: 14, takenBy: 'handle_exception_saved' });
    expect(cpu(0).traps).toHaveLength(1);
  });

  it('takes nothing for a trap that does not lie right under the stack it interrupted', () => {
    const frame = fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x100n });
    fake.set('cpu_user_regs', frame, 'rsp', fake.frame(0) - 0x80n);
    expect(cpu(0).traps).toEqual([]);
  });

  it('takes a CPU that stands where there is no code for one that has trapped', () => {
    fake.enterXen(0, 0n, 0);
    fake.registers(0).rdi = 7n;
    const [trap] = cpu(0).traps;
    expect(trap).toMatchObject({ rip: 0n, rsp: fake.frame(0), takenBy: 'nobody yet' });
    expect(trap!.object.u64('rdi')).toBe(7n);
  });

  it('does not take the guest’s own frame for a trap inside Xen', () => {
    fake.enterXen(0, 'do_page_fault');
    fake.setSlot(0, fake.symbol('handle_exception_saved') + 5n);
    expect(cpu(0).traps).toEqual([]);
  });
});

describe('isReturnAddress', () => {
  it('wants a call right before it, in Xen’s text', () => {
    const xen = fake.xen();
    expect(isReturnAddress(xen, fake.symbol('lstar_enter') + 5n)).toBe(true);
    expect(isReturnAddress(xen, fake.symbol('lstar_enter') + 4n)).toBe(false);
    expect(isReturnAddress(xen, fake.frame(0))).toBe(false);
    expect(isReturnAddress(xen, 0n)).toBe(false);
  });
});
