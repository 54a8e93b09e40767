import { beforeEach, describe, expect, it } from 'vitest';
import { bounceFrames } from '../../../src/recover/microreset/bounce-frames.js';
import { completeFrames } from '../../../src/recover/microreset/complete-frames.js';
import { contextSwitch } from '../../../src/recover/microreset/context-switch.js';
import { fpuState } from '../../../src/recover/microreset/fpu-state.js';
import { inServiceVectors } from '../../../src/recover/microreset/in-service.js';
import { pageFrames } from '../../../src/recover/microreset/page-frames.js';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { pageInfo } from '../../../src/xen/frames.js';
import { guestInDirectMap } from '../../../src/xen/guest-memory.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakeXen, GUEST_KERNEL, GUEST_PROCESS } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});
const frameOf = (xen: Xen, cpu = 0) => xen.object('cpu_user_regs', fake.frame(cpu));
const SCHED_OP = 29;

describe('complete-frames', () => {
  /** mov [rsp+0x70], rdi; xor edi, edi; mov [rsp], r15; xor r15d, r15d; call */
  const SAVE = [0x48, 0x89, 0x7c, 0x24, 0x70, 0x31, 0xff, 0x4c, 0x89, 0x3c, 0x24, 0x45, 0x31, 0xff, 0xe8, 0, 0, 0, 0];

  it('runs the rest of an entry sequence on values for a CPU that was merely frozen', () => {
    const entry = fake.symbol('lstar_enter') + 0x20n;
    fake.putBytes(entry, SAVE);
    fake.enterXen(0, entry, 0);
    Object.assign(fake.registers(0), { rdi: 0x1111n, r15: 0x2222n });
    fake.setFrame(0, { r15: 0xdeadn, rbx: 0x5555n });
    const { after, findings } = planWith(fake, completeFrames);
    const frame = frameOf(after);
    expect([frame.u64('rdi'), frame.u64('r15'), frame.u64('rbx')]).toEqual([0x1111n, 0x2222n, 0x5555n]);
    expect(findings).toEqual(['CPU 0: ran 4 instructions of lstar_enter+0x20 on values']);
  });

  it('runs a CPU on from the stub page, where it is still on the guest’s stack', () => {
    const stub = fake.get('stubs', fake.perCpu('stubs', 0), 'addr');
    // mov rax, rsp; then rsp becomes the top of Xen's frame; push rax; call
    const top = fake.frame(0) + BigInt(fake.profile.struct('cpu_user_regs').field('es').offset);
    const immediate = Array.from({ length: 8 }, (_, n) => Number((top >> BigInt(8 * n)) & 0xffn));
    fake.putBytes(stub, [0x48, 0x89, 0xe0, 0x48, 0xbc, ...immediate, 0x50, 0xe8, 0, 0, 0, 0]);
    fake.enterXen(0, stub);
    fake.registers(0).rsp = 0x7fff_1234_5678n;
    const { after, findings } = planWith(fake, completeFrames);
    expect(after.memory.u64(top - 8n)).toBe(0x7fff_1234_5678n);
    expect(findings[0]).toMatch(/ran 3 instructions/);
  });

  it('does nothing deeper in Xen, or on the way out', () => {
    fake.enterXen(0, 'do_sched_op');
    expect(planWith(fake, completeFrames).writes).toEqual([]);
    fake.enterXen(0, 'restore_all_guest', 0);
    fake.putBytes(fake.symbol('restore_all_guest'), SAVE);
    expect(planWith(fake, completeFrames).writes).toEqual([]);
  });

  it('takes registers that were not saved yet from the failure’s own frame', () => {
    // Up to rcx they are cleared, so saved; rax and what follows are still the guest's.
    const rest = { rdi: 0n, rsi: 0n, rdx: 0n, rcx: 0n, rax: 5n, r8: 8n, r9: 9n, r14: 14n, r15: 15n };
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), ...rest });
    fake.setFrame(0, { rdi: 1, rsi: 2, rdx: 3, rcx: 4, rax: 0xdead, r15: 0xdead });
    const { after } = planWith(fake, completeFrames);
    const frame = frameOf(after);
    expect(['rdi', 'rsi', 'rdx', 'rcx'].map((name) => frame.u64(name))).toEqual([1n, 2n, 3n, 4n]);
    expect(['rax', 'r8', 'r9', 'r14', 'r15'].map((name) => frame.u64(name))).toEqual([5n, 8n, 9n, 14n, 15n]);
  });

  describe('that were loaded from a place one word too low', () => {
    const GUEST_RIP = 0x52a5c4n;
    /** IRET takes the guest's rip for the code segment. */
    const leave = (fields: Readonly<Record<string, bigint | number>> = {}): void => {
      const iret = fake.symbol('restore_all_xen') + 0xa4n;
      fake.putBytes(iret, [0x48, 0xcf]);
      fake.setSlot(0, 0n);
      const rsp = fake.frame(0) + 0x78n;
      fake.trap(0, { rip: iret, rsp, entry_vector: 13, error_code: 0xa5c4, ...fields });
      fake.setFrame(0, { rip: GUEST_RIP, rflags: 0x202 });
    };

    it('gives each register its own back, and tells which one the failure wrote over', () => {
      leave({ r15: 0xdeadn, r14: 15n, r13: 14n, rbp: 12n, rax: 8n, rdi: 6n, rsi: 2n });
      const { after, findings } = planWith(fake, completeFrames);
      const frame = frameOf(after);
      expect(['r15', 'r14', 'r12', 'r8', 'rsi', 'rdx', 'rdi', 'rip'].map((name) => frame.u64(name))).toEqual([
        15n,
        14n,
        12n,
        8n,
        6n,
        2n,
        0n,
        GUEST_RIP,
      ]);
      expect(findings).toEqual(['CPU 0: registers of d0v0 were loaded into others; lost: rdi']);
    });

    it('does not take the end of a process’s system call for its beginning', () => {
      fake.setHypercall(0, 0, GUEST_PROCESS);
      const rip = frameOf(fake.xen()).u64('rip');
      leave({ error_code: rip & 0xfffcn });
      fake.setFrame(0, { rip, entry_vector: 0x100 });
      expect(frameOf(planWith(fake, retryHypercalls).after).u64('rip')).toBe(rip);
    });

    it('takes them as they are where IRET failed for another reason', () => {
      leave({ error_code: 0x10, r15: 15n, r14: 14n });
      const frame = frameOf(planWith(fake, completeFrames).after);
      expect(['r15', 'r14'].map((name) => frame.u64(name))).toEqual([15n, 14n]);
    });
  });

  describe('whose registers a function of Xen’s popped, with its stack pointer too high,', () => {
    /** pop rbx, rbp, r12, r13, r14, r15 */
    const POPS = [0x5b, 0x5d, 0x41, 0x5c, 0x41, 0x5d, 0x41, 0x5e, 0x41, 0x5f];
    const RET = [0xc3];
    const GUEST_RBX = 0xffff_8880_07a2_f400n;
    const names = ['r15', 'r14', 'r13', 'r12', 'rbp', 'rbx', 'r11'] as const;

    /** A call of `check_for_livepatch_work` with the stack at the guest's frame, and its end as these bytes have it. */
    const calls = (end: readonly number[]): bigint => {
      const [from, to] = [fake.symbol('continue_running') + 0x40n, fake.symbol('check_for_livepatch_work')];
      const distance = Number(to - from - 5n);
      fake.putBytes(from, [0xe8, ...[0, 8, 16, 24].map((shift) => (distance >> shift) & 0xff)]);
      fake.putBytes(to, [0x48, 0x83, 0xc4, 0x30, ...end]);
      return from + 5n;
    };
    /** The failure's own frame lies over the first words of the guest's. */
    const failsWith = (returns: bigint, fields: Readonly<Record<string, bigint>> = {}): void => {
      fake.setFrame(0, { rbx: GUEST_RBX, r11: 0x246, entry_vector: 0xfa });
      const popped = { rbx: returns, rbp: 15n, r12: 14n, r13: 13n, r14: 12n, r15: 5n };
      fake.trap(0, { rip: GUEST_RBX, rsp: fake.frame(0) + 0x30n, ...popped, ...fields });
    };
    const registersOf = (xen: Xen): bigint[] => names.map((name) => frameOf(xen).u64(name));

    it('gives each its own back', () => {
      failsWith(calls([...POPS, ...RET]));
      const { after, findings } = planWith(fake, completeFrames);
      expect(registersOf(after)).toEqual([15n, 14n, 13n, 12n, 5n, GUEST_RBX, 0x246n]);
      expect(findings).toEqual(['CPU 0: 6 registers of d0v0 had been popped into others']);
    });

    it('finds the end that returns through a thunk, behind one that pops less', () => {
      const end = [...POPS.slice(0, 2), ...RET, ...POPS];
      const returns = calls(end);
      const at = fake.symbol('check_for_livepatch_work') + BigInt(4 + end.length);
      const distance = Number(fake.symbol('__x86_return_thunk') - at - 5n);
      fake.putBytes(at, [0xe9, ...[0, 8, 16, 24].map((shift) => (distance >> shift) & 0xff)]);
      failsWith(returns);
      expect(registersOf(planWith(fake, completeFrames).after).slice(0, 5)).toEqual([15n, 14n, 13n, 12n, 5n]);
    });

    it('does not take a system call for one that has not begun', () => {
      const returns = calls([...POPS, ...RET]);
      fake.setHypercall(0, SCHED_OP);
      const rip = frameOf(fake.xen()).u64('rip');
      failsWith(returns);
      fake.setFrame(0, { entry_vector: 0x100 });
      expect(frameOf(planWith(fake, retryHypercalls).after).u64('rip')).toBe(rip);
    });

    it.each([
      ['no register has the address of a return', [...POPS, ...RET], { rbx: 3n }],
      ['the function pops something else', [0x5b, 0x5d, ...RET], {}],
      ['it went on at something else than the guest’s word', [...POPS, ...RET], { rip: 0x1234n }],
    ])('takes them for registers that were not saved yet where %s', (_, end, fields) => {
      failsWith(calls(end), fields);
      const { findings } = planWith(fake, completeFrames);
      expect(findings).toEqual(["CPU 0: 6 registers of d0v0 taken from the failure's frame"]);
    });
  });

  it('takes nothing from a failure with Xen’s own values in its registers, such as at the end of a context switch', () => {
    fake.trap(0, { rip: 0n, rsp: fake.frame(0), rdi: fake.frame(0), rax: 1n, r12: 0xffff_82d0_4020_4c00n, r15: 2n });
    fake.setFrame(0, { rdi: 1, rax: 0, r12: 12, r15: 15 });
    expect(planWith(fake, completeFrames).writes).toEqual([]);
  });

  it('leaves the frame alone when the failure was deeper in Xen', () => {
    fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x80n, rax: 5n });
    expect(planWith(fake, completeFrames).writes).toEqual([]);
  });

  it('has an HVM vCPU whose CPU comes back from the interrupt that ended its run go through STGI', () => {
    const vmcb = fake.get('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb');
    fake.set('vmcb_struct', vmcb, 'rax', 0x12345);
    const { stgi } = readEntryFacts(fake.xen()).svm!;
    fake.trap(1, { rip: stgi + 1n, rsp: fake.frame(1), entry_vector: 0xfa });
    fake.enterXen(1, fake.symbol('restore_all_xen') + 4n, 0xb0);
    fake.setFrame(1, { rax: 0x21db96000n });
    const { after, plan } = planWith(fake, completeFrames, placeCpus);
    expect(frameOf(after, 1).u64('rax')).toBe(0x12345n);
    expect(plan.cpus[1]!.action).toContain('goes through STGI');
  });

  it('has an HVM vCPU between CLGI and VMRUN go through STGI as if an interrupt had come', () => {
    const vmcb = fake.get('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb');
    fake.set('vmcb_struct', vmcb, 'rip', 0x7777);
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x400);
    fake.enterXen(1, fake.symbol('svm_asm_do_resume') + 3n, 0);
    const { after, plan } = planWith(fake, completeFrames, placeCpus);
    expect(frameOf(after, 1).u64('rip')).toBe(0x7777n);
    expect(after.object('vmcb_struct', vmcb).u64('exitcode')).toBe(0x60n);
    expect(plan.cpus[1]!.action).toContain('goes through STGI');
    expect(plan.cpus[1]!.action).toContain('svm_asm_do_resume+0x6');
  });

  it('keeps the exit code of an HVM vCPU whose exit was not handled yet', () => {
    const vmcb = fake.get('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb');
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x400);
    fake.enterXen(1, fake.symbol('svm_asm_do_resume') + 6n, 0);
    const { after } = planWith(fake, completeFrames);
    expect(after.object('vmcb_struct', vmcb).u64('exitcode')).toBe(0x400n);
  });
});

describe('complete-frames, for an HVM vCPU whose exit handler failed,', () => {
  let vmcb: bigint;
  const HLT = 0x78;
  beforeEach(() => {
    vmcb = fake.get('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb');
    for (const [field, value] of Object.entries({ rip: 0x7000, rsp: 0x9000, rax: 1 })) {
      fake.set('vmcb_struct', vmcb, field, value);
    }
    fake.set('vmcb_struct', vmcb, 'exitcode', HLT);
    fake.trap(1, { rip: 0n, rsp: fake.frame(1) - 0x40n });
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.handlerReturn);
  });
  const afterwards = (frame: Readonly<Record<string, number>>) => {
    fake.setFrame(1, frame);
    const { after, plan } = planWith(fake, completeFrames);
    return [frameOf(after, 1).u64('rip'), plan.cpus[1]!.action.includes('goes through STGI')];
  };

  it('takes the guest’s position from the VMCB when the frame still has that of the entry', () => {
    expect(afterwards({ rip: 0x5000, rsp: 0x9000, rax: 1 })).toEqual([0x7000n, true]);
    expect(afterwards({ rip: 0x7000, rsp: 0x8000, rax: 1 })).toEqual([0x7000n, true]);
  });

  it('keeps a position that was advanced by one instruction', () => {
    expect(afterwards({ rip: 0x7001, rsp: 0x9000, rax: 5 })).toEqual([0x7001n, false]);
  });

  it('knows that no interrupt advances the guest', () => {
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x60);
    expect(afterwards({ rip: 0x7001, rsp: 0x9000, rax: 1 })).toEqual([0x7000n, true]);
  });
});

describe('retry-hypercalls', () => {
  const rip = GUEST_KERNEL + 0x22n;

  it('sets the guest back onto its SYSCALL while the call was under way', () => {
    fake.setHypercall(0, SCHED_OP);
    fake.enterXen(0, 'do_sched_op');
    fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
    const { after, plan } = planWith(fake, retryHypercalls);
    expect(frameOf(after).u64('rip')).toBe(rip - 2n);
    expect(frameOf(after).u64('rax')).toBe(BigInt(SCHED_OP));
    expect(plan.cpus[0]).toMatchObject({ retried: true, hypercall: 'sched_op' });
  });

  it('repeats no call that has ended', () => {
    fake.setHypercall(0, 0);
    fake.enterXen(0, 'test_guest_events', 0);
    const { after, plan } = planWith(fake, retryHypercalls);
    expect(frameOf(after).u64('rip')).toBe(rip);
    expect(plan.cpus[0]!.retried).toBe(false);
  });

  it('sets a process back onto its system call, and its vCPU back to user mode when it had left it', () => {
    fake.setHypercall(0, 39, GUEST_PROCESS);
    fake.enterXen(0, 'create_bounce_frame', 0x10);
    fake.setSlot(0, fake.symbol('switch_to_kernel') + 5n);
    const first = planWith(fake, retryHypercalls);
    expect(frameOf(first.after).u64('rip')).toBe(GUEST_PROCESS + 0x20n);
    expect(frameOf(first.after).u64('rax')).toBe(39n);
    expect(first.calls).toEqual([]);
    fake.set('vcpu', fake.dom0.address, 'arch.flags', 1);
    expect(planWith(fake, retryHypercalls).calls).toMatchObject([{ cpu: 0, function: 'toggle_guest_mode' }]);
  });

  it('leaves CPUs in their guests alone', () => {
    fake.setHypercall(0, SCHED_OP);
    expect(planWith(fake, retryHypercalls).writes).toEqual([]);
  });
});

describe('bounce-frames', () => {
  const HANDLER = GUEST_KERNEL + 0x400n;

  beforeEach(() => {
    fake.setHypercall(0, 0);
    fake.enterXen(0, 'create_bounce_frame', 0x10);
    fake.set('vcpu', fake.dom0.address, 'arch.pv.trap_bounce.eip', HANDLER);
  });

  it('gives a PV guest’s frame its privilege level back: a return would be one to Xen', () => {
    fake.setFrame(0, { cs: 0xe030 });
    const { after, findings } = planWith(fake, bounceFrames);
    expect(frameOf(after).num('cs')).toBe(0xe033);
    expect(findings).toHaveLength(1);
  });

  it.each([
    ['that the exit marked with the interrupt flag', 0x233, 0x33],
    ['that the exit took IOPL out of as well: its own is not known', 0xc233, 0xe033],
    ['whose privilege level is cleared besides', 0x230, 0x33],
  ])('gives it a code segment that its table has for one %s', (_, cs, expected) => {
    fake.set('vcpu', fake.dom0.address, 'arch.pv.gdt_ents', 16);
    fake.setFrame(0, { cs });
    const { after, findings } = planWith(fake, bounceFrames);
    expect(frameOf(after).num('cs')).toBe(expected);
    expect(findings).toContain('d0v0: code segment in its frame restored');
  });

  it.each([
    ["of the guest's own table", 0x33],
    ['of its local one', 0x1007],
    ["of Xen's", 0xe023],
  ])('leaves a code segment %s', (_, cs) => {
    fake.set('vcpu', fake.dom0.address, 'arch.pv.gdt_ents', 16);
    fake.setFrame(0, { cs });
    const { after, findings } = planWith(fake, bounceFrames);
    expect(frameOf(after).num('cs')).toBe(cs);
    expect(findings).toEqual([]);
  });

  it('gives a frame that was written over segments of its guest’s kernel, which fails by itself then', () => {
    fake.setFrame(0, { cs: 0, ss: 0, rip: 0, rflags: fake.symbol('do_page_fault') });
    const { after, findings } = planWith(fake, bounceFrames);
    expect([frameOf(after).num('cs'), frameOf(after).num('ss')]).toEqual([0xe033, 0xe02b]);
    expect(findings).toContain('d0v0: its frame was written over; it has a code segment again');
  });

  it('leaves the frame of a CPU that has not loaded its vCPU yet', () => {
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.idle[0]!.address);
    fake.setFrame(0, { cs: 0 });
    expect(frameOf(planWith(fake, bounceFrames).after).num('cs')).toBe(0);
  });

  it('gives it its stack segment back, which a trap at the top of the stack writes over', () => {
    fake.setFrame(0, { ss: 0 });
    const { after, findings } = planWith(fake, bounceFrames);
    expect(frameOf(after).num('ss')).toBe(0xe02b);
    expect(findings).toEqual(['d0v0: stack segment in its frame restored']);
  });

  it('gives it the stack segment of a 64-bit guest for one that is none, also where the CPU is idle', () => {
    fake.run(0, fake.idle[0]!);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.dom0.address);
    fake.setFrame(0, { ss: 0xf02b });
    const { after, findings } = planWith(fake, bounceFrames);
    expect(frameOf(after).num('ss')).toBe(0xe02b);
    expect(findings).toEqual(['d0v0: stack segment in its frame restored']);
  });

  it.each([
    ["of the guest's own table", 0xe033, 0x2b],
    ['of a 32-bit guest', 0xe019, 0xe021],
  ])('leaves a stack segment %s', (_, cs, ss) => {
    fake.setFrame(0, { cs, ss });
    expect(frameOf(planWith(fake, bounceFrames).after).num('ss')).toBe(ss);
  });

  it('clears the mask that a dropped delivery of an event had set', () => {
    const info = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    fake.set('vcpu_info', info, 'evtchn_upcall_mask', 1);
    fake.setSlot(0, fake.symbol('test_guest_events') + 5n);
    expect(planWith(fake, bounceFrames).after.object('vcpu_info', info).num('evtchn_upcall_mask')).toBe(0);
  });

  it('withdraws a request to deliver that nobody has begun with', () => {
    fake.enterXen(0, 'pv_inject_event');
    fake.set('vcpu', fake.dom0.address, 'arch.pv.trap_bounce.flags', 1);
    const { after, findings } = planWith(fake, bounceFrames);
    expect(after.object('vcpu', fake.dom0.address).num('arch.pv.trap_bounce.flags')).toBe(0);
    expect(findings).toEqual(['d0v0: a request to deliver is withdrawn']);
  });

  it('leaves a delivery alone that is complete: the guest is in its handler, with its events masked', () => {
    const info = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    fake.set('vcpu_info', info, 'evtchn_upcall_mask', 1);
    fake.setSlot(0, fake.symbol('test_guest_events') + 5n);
    fake.setFrame(0, { rip: HANDLER });
    const { after } = planWith(fake, bounceFrames);
    expect(after.object('vcpu_info', info).num('evtchn_upcall_mask')).toBe(1);
    expect(after.object('vcpu', fake.dom0.address).u64('arch.pv.trap_bounce.eip')).toBe(0n);
    fake.set('vcpu', fake.dom0.address, 'arch.pv.trap_bounce.eip', 0);
    expect(planWith(fake, bounceFrames).writes).toEqual([]);
  });

  it('completes a delivery whose frame is on the guest’s stack and has got its stack pointer', () => {
    const info = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    fake.set('vcpu_info', info, 'evtchn_upcall_mask', 1);
    fake.setSlot(0, fake.symbol('test_guest_events') + 5n);
    const stack = GUEST_KERNEL + 0x800n;
    const interrupted = frameOf(fake.xen()).u64('rip');
    const xen = fake.xen();
    for (const [n, word] of [0n, 0n, interrupted, 0xe030n, 0x202n, stack + 0x38n, 0xe02bn].entries())
      fake.put(guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), stack + BigInt(8 * n))!, 8, word);
    fake.setFrame(0, { rsp: stack });
    const { after } = planWith(fake, bounceFrames);
    expect([frameOf(after).u64('rip'), frameOf(after).num('cs')]).toEqual([HANDLER, 0xe033]);
    expect(after.object('vcpu_info', info).num('evtchn_upcall_mask')).toBe(1);
    fake.setFrame(0, { rsp: stack + 0x38n });
    expect(frameOf(planWith(fake, bounceFrames).after).u64('rip')).toBe(interrupted);
  });

  it('completes one to a process’s kernel, whose stack ends behind it, and does not send the vCPU back to its process', () => {
    fake.setHypercall(0, 0, GUEST_PROCESS);
    fake.setSlot(0, fake.symbol('test_guest_events') + 5n);
    fake.set('vcpu', fake.dom0.address, 'arch.flags', 1);
    const stack = GUEST_KERNEL + 0x1000n - 0x38n;
    const interrupted = frameOf(fake.xen()).u64('rip');
    const xen = fake.xen();
    for (const [n, word] of [0n, 0n, interrupted, 0xe033n, 0x202n, 0x7fff_0000n, 0xe02bn].entries())
      fake.put(guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), stack + BigInt(8 * n))!, 8, word);
    fake.setFrame(0, { rsp: stack });
    const { after, calls } = planWith(fake, bounceFrames);
    expect(frameOf(after).u64('rip')).toBe(HANDLER);
    expect(calls).toEqual([]);
  });

  it('keeps the mask of a guest that was in no delivery', () => {
    const info = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    fake.set('vcpu_info', info, 'evtchn_upcall_mask', 1);
    fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
    expect(planWith(fake, bounceFrames).writes).toEqual([]);
  });

  it('does not touch HVM guests, whose frame has other selectors', () => {
    fake.run(0, fake.dom0);
    fake.enterXen(1, 'vcpu_wake');
    fake.setFrame(1, { cs: 0x10 });
    expect(planWith(fake, bounceFrames).writes).toEqual([]);
  });
});

describe('context-switch', () => {
  /** CPU 0 was switching from the HVM guest's vCPU to dom0's. */
  beforeEach(() => {
    fake.run(1, fake.idle[1]!);
    fake.enterXen(0, '__context_switch');
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.hvm.address);
    fake.set('vcpu', fake.hvm.address, 'dirty_cpu', 0);
  });

  it('runs the whole switch again while the old vCPU’s registers are on the stack', () => {
    fake.set('vcpu', fake.dom0.address, 'arch.user_regs.rip', 0x9999);
    const { calls, writes } = planWith(fake, contextSwitch);
    expect(calls[0]).toMatchObject({ cpu: 0, function: '__context_switch', arguments: [] });
    expect(writes).toEqual([]);
  });

  it('loads the segments of the new one when all else is loaded, the kernel’s GS base where it belongs', () => {
    fake.set('vcpu', fake.dom0.address, 'arch.pv.fs_base', 0x1000);
    fake.set('vcpu', fake.dom0.address, 'arch.pv.gs_base_kernel', 0x2000);
    fake.set('vcpu', fake.dom0.address, 'arch.pv.gs_base_user', 0x3000);
    const table = 0xffff_8200_0001_0000n;
    const { calls } = planWith(fake, contextSwitch);
    expect(calls[1]).toMatchObject({ function: 'svm_load_segs', arguments: [0n, table, 0x1000n, 0x3000n, 0x2000n] });
    fake.set('vcpu', fake.dom0.address, 'arch.flags', 1);
    expect(planWith(fake, contextSwitch).calls[1]!.arguments).toEqual([0n, table, 0x1000n, 0x2000n, 0x3000n]);
  });

  it('takes a stack top of which the first part is the new one’s for one that is being loaded', () => {
    for (const [rsi, vcpu] of [
      [1, fake.dom0],
      [2, fake.hvm],
    ] as const) {
      fake.set('vcpu', vcpu.address, 'arch.user_regs.r15', 10 * rsi);
      fake.set('vcpu', vcpu.address, 'arch.user_regs.rsi', rsi);
    }
    fake.setFrame(0, { r15: 10, rsi: 2 });
    expect(planWith(fake, contextSwitch).findings).toEqual(['CPU 0: from d1v0 to d0v0, loading']);
    fake.setFrame(0, { r15: 20, rsi: 2 });
    expect(planWith(fake, contextSwitch).findings).toEqual(['CPU 0: from d1v0 to d0v0, saving']);
  });

  it('only loads once the new one’s are there: the old one was saved', () => {
    fake.set('vcpu', fake.dom0.address, 'arch.user_regs.rip', 0x9999);
    fake.setFrame(0, { rip: 0x9999 });
    const { after, calls, findings } = planWith(fake, contextSwitch);
    expect(after.memory.u64(fake.perCpu('curr_vcpu', 0))).toBe(fake.idle[0]!.address);
    expect(after.object('vcpu', fake.hvm.address).num('dirty_cpu')).toBe(0xffff_ffff);
    expect(calls.map((call) => call.function)).toEqual(['__context_switch', 'svm_load_segs']);
    expect(findings).toEqual(['CPU 0: from d1v0 to d0v0, loading']);
  });

  describe('that is done but for the segments', () => {
    const OWN = { fs_base: 0x1000, gs_base_kernel: 0x2000, gs_base_user: 0x3000 };
    beforeEach(() => {
      fake.run(0, fake.dom0);
      fake.enterXen(0, 'context_switch');
      for (const [name, value] of Object.entries(OWN)) fake.set('vcpu', fake.dom0.address, `arch.pv.${name}`, value);
      fake.set('vcpu', fake.dom0.address, 'arch.flags', 1);
      fake.set('sched_resource', fake.resources[0]!, 'prev', fake.idle[0]!.unit);
    });
    const calls = (fsBase: bigint, gsBase: bigint, kernelGsBase: bigint) => {
      Object.assign(fake.registers(0), { fsBase, gsBase, kernelGsBase });
      return planWith(fake, contextSwitch).calls.map((call) => [call.function, ...call.arguments.slice(2)]);
    };

    it('loads them when the CPU has another kernel’s', () => {
      expect(calls(0x77n, 0x88n, 0x99n)).toEqual([['svm_load_segs', 0x1000n, 0x2000n, 0x3000n]]);
    });

    it('leaves them when only the process changed its own', () => {
      expect(calls(0x77n, 0x2000n, 0x99n)).toEqual([]);
      expect(calls(0x1000n, 0x2000n, 0x3000n)).toEqual([]);
    });

    it('leaves them when no switch is under way', () => {
      fake.set('sched_resource', fake.resources[0]!, 'prev', 0);
      expect(calls(0x77n, 0x88n, 0x99n)).toEqual([]);
    });

    it('puts GS bases that were exchanged too early back', () => {
      fake.set('sched_resource', fake.resources[0]!, 'prev', 0);
      expect(calls(0x77n, 0x99n, 0x2000n)).toEqual([['svm_load_segs', 0x77n, 0x2000n, 0x99n]]);
    });
  });

  it('has an idle CPU forget a vCPU that was saved for good', () => {
    fake.run(0, fake.idle[0]!);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.hvm.address);
    fake.set('vcpu', fake.hvm.address, 'dirty_cpu', 0xffff_ffff);
    fake.enterXen(0, '__context_switch');
    expect(planWith(fake, contextSwitch).after.memory.u64(fake.perCpu('curr_vcpu', 0))).toBe(fake.idle[0]!.address);
  });

  it('lets the idle vCPU keep another’s state loaded: that is how Xen does it', () => {
    fake.run(0, fake.idle[0]!);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.dom0.address);
    fake.set('vcpu', fake.dom0.address, 'dirty_cpu', 0);
    fake.enterXen(0, 'idle_loop');
    expect(planWith(fake, contextSwitch).plan.edits).toEqual([]);
  });
});

describe('fpu-state', () => {
  it('has the next use of the unit trap while the registers are not noted as the vCPU’s', () => {
    fake.enterXen(0, 'do_device_not_available');
    fake.registers(0).cr0 = 0x8005_0033n;
    const { plan } = planWith(fake, fpuState);
    expect(plan.edits).toMatchObject([{ kind: 'registers', cpu: 0, set: { cr0: 0x8005_003bn } }]);
    fake.set('vcpu', fake.dom0.address, 'fpu_dirtied', 1);
    expect(planWith(fake, fpuState).plan.edits).toEqual([]);
  });
});

describe('in-service-vectors', () => {
  it('repeats a device’s interrupt and acknowledges it', () => {
    fake.enterXen(0, 'do_IRQ');
    fake.inService[0] = [0x31, 0xfa];
    const { calls, findings } = planWith(fake, inServiceVectors);
    expect(calls.map((call) => [call.function, call.arguments])).toEqual([
      ['send_IPI_self', [0x31n]],
      ['send_IPI_self', [0xfan]],
      ['event_check_interrupt', [0n]],
      ['event_check_interrupt', [0n]],
    ]);
    expect(findings).toEqual(['CPU 0: vectors 49, 250 in service']);
  });

  it('does not repeat the APIC’s own error vector, nor acknowledge for a CPU that was left alone', () => {
    fake.enterXen(0, 'do_IRQ');
    fake.inService[0] = [254];
    fake.inService[1] = [0x31];
    expect(planWith(fake, inServiceVectors).calls.map((call) => [call.cpu, call.function])).toEqual([
      [0, 'event_check_interrupt'],
    ]);
  });
});

describe('page-frames', () => {
  const FRAME = 1234;
  const constant = (name: string): bigint => BigInt(fake.profile.constant(name));
  const typeInfo = (xen: Xen): bigint => pageInfo(xen, FRAME).u64('u.inuse.type_info');
  const setType = (value: bigint): void => {
    fake.set('page_info', pageInfo(fake.xen(), FRAME).address, 'u.inuse.type_info', value);
  };

  it('gives back the lock of a page table and the reference that came with it', () => {
    const l1 = constant('PGT_l1_page_table') | constant('PGT_validated');
    setType(l1 | constant('PGT_locked') | 4n);
    const { after, findings } = planWith(fake, pageFrames);
    expect(typeInfo(after)).toBe(l1 | 3n);
    expect(findings).toEqual(['frame 0x4d2 was locked']);
  });

  it('drops the reference of a validation that nobody performs any more', () => {
    setType(constant('PGT_l4_page_table') | 1n);
    expect(typeInfo(planWith(fake, pageFrames).after)).toBe(constant('PGT_l4_page_table'));
  });

  it.each([
    ['validated', 'PGT_validated', 'PGT_l2_page_table'],
    ['partly validated', 'PGT_partial', 'PGT_l2_page_table'],
    ['writable and validated', 'PGT_validated', 'PGT_writable_page'],
    ['pinned and validated', 'PGT_validated', 'PGT_l4_page_table'],
  ])('leaves a %s page alone', (_, state, type) => {
    setType(constant(type) | constant(state) | 1n);
    expect(planWith(fake, pageFrames).writes).toEqual([]);
  });

  it('leaves free frames alone: their descriptors hold other things in these bits', () => {
    fake.set('page_info', pageInfo(fake.xen(), FRAME).address, 'count_info', constant('PGC_state_free'));
    setType(constant('PGT_locked') | 1n);
    expect(planWith(fake, pageFrames).writes).toEqual([]);
  });
});
