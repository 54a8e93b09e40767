/** VMs that are not to be expected back. */
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { loadCapsule } from '../../src/recover/capsule.js';
import { listDomains } from '../../src/xen/domains.js';
import { endedVm } from '../../src/xen/ended.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
let vmcb: bigint;
const ended = (): string | undefined => endedVm(fake.xen(), listDomains(fake.xen()));

beforeEach(() => {
  fake = new FakeXen();
  fake.put(fake.perCpu('host_vmcb', 0), 8, 0x1000);
  vmcb = fake.alloc(4096, 4096);
  fake.set('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb', vmcb);
});

describe('endedVm', () => {
  it('finds nobody in a healthy box', () => {
    fake.set('vmcb_struct', vmcb, 'rip', 0xffff_ffff_81a4_e8can);
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x78);
    expect(ended()).toBeUndefined();
  });

  it('finds a VM that shut down, and one that is being destroyed', () => {
    fake.set('domain', fake.hvm.domain, 'is_shutting_down', 1);
    expect(ended()).toMatch(/^d1 had shut down/);
    fake.set('domain', fake.dom0.domain, 'is_dying', 1);
    expect(ended()).toBe('d0 was being destroyed');
  });

  it('finds a vCPU that has met a triple fault, or cannot but meet one', () => {
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x7f);
    expect(ended()).toBe('d1v0 had met a triple fault');
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x400);
    fake.set('vmcb_struct', vmcb, 'rip', fake.symbol('do_sched_op') + 5n);
    expect(ended()).toBe('d1v0 had met a triple fault');
  });

  it('finds one in a campaign whose guest QEMU had given the state of Xen itself', () => {
    const root = join(import.meta.dirname, '../..');
    const { xen } = loadCapsule(join(root, 'spec/capsules/guest-with-xens-state.capsule'), join(root, 'profiles'));
    expect(endedVm(xen, listDomains(xen))).toBe('d1v1 had met a triple fault');
  });

  it('has nothing to say of a VMCB where there is none', () => {
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x7f);
    fake.put(fake.perCpu('host_vmcb', 0), 8, 0);
    expect(ended()).toBeUndefined();
  });
});
