import { beforeEach, describe, expect, it } from 'vitest';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import type { HypercallProgress } from '../../src/xen/hypercalls.js';
import { FakeXen, GUEST_PROCESS } from '../support/fake-xen.js';

const SCHED_OP = 29;
const MMU_UPDATE = 1;
let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

function progress(): HypercallProgress {
  const xen = fake.xen();
  return readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[0]!.hypercall;
}
const inCall = (): void => fake.setSlot(0, fake.symbol('lstar_enter') + 5n);

describe('hypercallProgress', () => {
  it('sees a hypercall under way by the return address under the guest’s frame', () => {
    fake.setHypercall(0, SCHED_OP);
    fake.enterXen(0, 'do_sched_op');
    inCall();
    expect(progress()).toEqual({ state: 'in-progress', number: SCHED_OP, name: 'sched_op', started: true });
  });

  it('does not believe that return address once the call has returned: the slot keeps it', () => {
    fake.setHypercall(0, SCHED_OP);
    fake.enterXen(0, fake.symbol('test_guest_events') + 1n, 0);
    inCall();
    expect(progress()).toEqual({ state: 'finished' });
  });

  it('counts a call whose answer is in rax already as finished', () => {
    fake.setHypercall(0, -22n);
    fake.enterXen(0, 'pv_hypercall');
    inCall();
    expect(progress()).toEqual({ state: 'finished' });
  });

  it('takes a CPU between the saved registers and the call as not having begun', () => {
    fake.setHypercall(0, MMU_UPDATE);
    fake.enterXen(0, fake.symbol('lstar_enter') + 2n, 0);
    expect(progress()).toEqual({ state: 'in-progress', number: MMU_UPDATE, name: 'mmu_update', started: false });
  });

  it('judges the CPU that failed by the thread that the trap interrupted, not by the trap handler’s stack', () => {
    fake.setHypercall(0, MMU_UPDATE);
    inCall();
    fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x100n });
    expect(progress()).toMatchObject({ state: 'in-progress', started: true });
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), rsi: 5n });
    expect(progress()).toEqual({ state: 'finished' });
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), rsi: 0n });
    expect(progress()).toMatchObject({ state: 'in-progress', started: false });
  });

  it('takes a CPU that failed while the guest’s registers were saved for one on its way in', () => {
    fake.setHypercall(0, MMU_UPDATE);
    fake.setFrame(0, { rflags: 0x216n, r12: 0n });
    // Those before r8 are saved and cleared, none is Xen's.
    const saved = { rdi: 0n, rsi: 0n, rdx: 0n, rcx: 0n, rax: 0n };
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), ...saved, r8: 4n, r9: 5n, r10: 6n, r11: 0x216n, r12: 12n });
    expect(progress()).toMatchObject({ state: 'in-progress', started: false });
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), ...saved, r8: 4n, r11: 0x216n, r12: 0xffff_8300_0000_1000n });
    expect(progress()).toEqual({ state: 'finished' });
  });

  it('takes a thread whose stack pointer was the victim for one deep in its call', () => {
    fake.setHypercall(0, MMU_UPDATE);
    inCall();
    fake.enterXen(0, 'do_mmu_update');
    fake.registers(0).rsp ^= 1n << 40n;
    expect(progress()).toMatchObject({ state: 'in-progress', started: true });
  });

  it('knows the system call of a process that is being forwarded to its kernel', () => {
    fake.setHypercall(0, 39, GUEST_PROCESS);
    fake.enterXen(0, 'create_bounce_frame', 0x10);
    fake.setSlot(0, fake.symbol('switch_to_kernel') + 5n);
    expect(progress()).toEqual({ state: 'forwarded-syscall' });
    fake.setSlot(0, fake.symbol('test_guest_events') + 5n);
    expect(progress()).toEqual({ state: 'none' });
  });

  it('sees none where the guest came by an interrupt', () => {
    fake.setHypercall(0, SCHED_OP);
    fake.setFrame(0, { entry_vector: 0xfa });
    fake.enterXen(0, 'do_IRQ');
    inCall();
    expect(progress()).toEqual({ state: 'none' });
  });

  it('sees none where there is no SYSCALL to go back to', () => {
    fake.setHypercall(0, SCHED_OP);
    fake.setFrame(0, { rip: 0xffff_ffff_8100_0800n });
    fake.enterXen(0, 'do_sched_op');
    inCall();
    expect(progress()).toEqual({ state: 'none' });
    fake.setFrame(0, { rip: 0xffff_ffff_9999_0000n });
    expect(progress()).toEqual({ state: 'none' });
  });
});

describe('readEntryFacts', () => {
  it('finds the call sites by decoding, whatever their distance', () => {
    const facts = readEntryFacts(fake.xen());
    const after = (name: string): bigint => fake.symbol(name) + 5n;
    expect([...facts.hypercallReturns]).toEqual([after('lstar_enter')]);
    expect([...facts.forwardReturns]).toEqual([after('switch_to_kernel')]);
    expect(facts.bounceReturns.get(after('switch_to_kernel'))).toBe('syscall');
    expect(facts.bounceReturns.get(after('test_guest_events'))).toBe('event');
    expect(facts.frameReturns.get(after('common_interrupt'))).toBe('common_interrupt');
    expect([...facts.exitReturns]).toEqual([after('process_softirqs'), after('continue_pv_domain')]);
    const resume = fake.symbol('svm_asm_do_resume');
    expect(facts.svm).toEqual({
      resume,
      clgi: resume,
      vmrun: resume + 3n,
      stgi: resume + 6n,
      handlerReturn: resume + 14n,
      assistReturn: resume + 19n,
      handlerFirstCall: fake.symbol('svm_vmexit_handler'),
    });
  });

  it('refuses entry code that never calls pv_hypercall', () => {
    fake.putBytes(fake.symbol('lstar_enter'), [0x90, 0x90, 0x90, 0x90, 0x90]);
    expect(() => readEntryFacts(fake.xen())).toThrow(/no call of pv_hypercall/);
  });

  it('refuses an SVM loop without VMRUN', () => {
    fake.putBytes(fake.symbol('svm_asm_do_resume') + 3n, [0x90, 0x90, 0x90]);
    expect(() => readEntryFacts(fake.xen())).toThrow(/svm_asm_do_resume/);
  });
});
