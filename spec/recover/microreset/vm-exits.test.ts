import { beforeEach, describe, expect, it } from 'vitest';
import { vmExits } from '../../../src/recover/microreset/vm-exits.js';
import type { Vcpu } from '../../../src/xen/domains.js';
import { listDomains } from '../../../src/xen/domains.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { highestInService, vectorBit } from '../../../src/xen/vlapic.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const UPCALL = 0xf3;
const VALID = 0x8000_0000n;
let fake: FakeXen;
let vmcb: bigint;
let controller: bigint;

beforeEach(() => {
  fake = new FakeXen();
  vmcb = fake.get('vcpu', fake.hvm.address, 'arch.hvm.svm.vmcb');
  controller = fake.alloc(4096, 4096);
  fake.set('vcpu', fake.hvm.address, 'arch.hvm.vlapic.regs', controller);
});

const guest = (xen: Xen): Vcpu => listDomains(xen).find(({ kind }) => kind === 'hvm')!.vcpus[0]!;
const isRequested = (xen: Xen, vector: number): boolean => {
  const { address, mask } = vectorBit(xen, guest(xen), 'requested', vector);
  return (xen.memory.u32(address) & mask) !== 0;
};

describe('an interrupt that was taken up', () => {
  function takeUp(): void {
    const { address, mask } = vectorBit(fake.xen(), guest(fake.xen()), 'inService', UPCALL);
    fake.put(address, 4, mask);
    fake.enterXen(1, 'hvm_vcpu_ack_pending_irq');
  }

  it('is requested again when its delivery was not queued', () => {
    takeUp();
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.assistReturn);
    const { after, findings } = planWith(fake, vmExits);
    expect(highestInService(after, guest(after))).toBeUndefined();
    expect(isRequested(after, UPCALL)).toBe(true);
    expect(findings).toEqual(['vector 243 of d1v0 was taken up and not delivered']);
  });

  it('stays in service when its delivery is queued', () => {
    takeUp();
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.assistReturn);
    fake.set('vmcb_struct', vmcb, 'event_inj.raw', VALID | BigInt(UPCALL));
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });

  it('stays in service when the guest is in its handler', () => {
    takeUp();
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.handlerReturn);
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });
});

describe('an exit that came while an interrupt was being delivered', () => {
  beforeEach(() => {
    fake.enterXen(1, 'svm_vmexit_handler');
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.handlerReturn);
    fake.set('vmcb_struct', vmcb, 'exit_int_info.raw', VALID | BigInt(UPCALL));
  });

  it('has the interrupt delivered when Xen had not queued it again', () => {
    const { after } = planWith(fake, vmExits);
    expect(after.object('vmcb_struct', vmcb).u64('event_inj.raw')).toBe(VALID | BigInt(UPCALL));
  });

  it('is left alone when Xen had', () => {
    fake.set('vmcb_struct', vmcb, 'event_inj.raw', VALID | BigInt(UPCALL));
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });

  it('is left alone when it was an exception, which the guest causes again', () => {
    fake.set('vmcb_struct', vmcb, 'exit_int_info.raw', VALID | 0x300n | 14n);
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });
});

describe('a hypercall of an HVM guest', () => {
  const SCHED_OP = 29;
  beforeEach(() => {
    fake.enterXen(1, 'hvm_hypercall');
    fake.setSlot(1, readEntryFacts(fake.xen()).svm!.handlerReturn);
    fake.set('vmcb_struct', vmcb, 'exitcode', 0x81);
    fake.set('vmcb_struct', vmcb, 'rax', SCHED_OP);
    fake.set('vmcb_struct', vmcb, 'rip', 0x1000);
  });

  it('is not repeated once it has its answer', () => {
    fake.setFrame(1, { rax: 0, rip: 0x1000 });
    const { after, plan } = planWith(fake, vmExits);
    expect(after.object('cpu_user_regs', fake.frame(1)).u64('rip')).toBe(0x1003n);
    expect(plan.cpus[1]!.action).toContain('its hypercall is finished');
  });

  it('is repeated while it has none', () => {
    fake.setFrame(1, { rax: SCHED_OP, rip: 0x1000 });
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });

  it('is not skipped twice', () => {
    fake.setFrame(1, { rax: 0, rip: 0x1003 });
    expect(planWith(fake, vmExits).writes).toEqual([]);
  });
});
