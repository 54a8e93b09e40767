import { beforeEach, describe, expect, it } from 'vitest';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { threadStackPointer } from '../../src/xen/hypercalls.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

const failed = () => {
  const xen = fake.xen();
  return readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[0]!;
};

/** Where a double fault saves the registers: not on the stack that it interrupts. */
const ownStack = (): bigint => fake.frame(0) - 0x4000n;

describe('the traps on a stack', () => {
  it('are followed by the stack pointers that they hold: what an earlier trap left in between is none', () => {
    const stackPointer = fake.frame(0) - 0x100n;
    fake.trap(0, { rip: fake.symbol('vcpu_wake'), rsp: fake.frame(0) - 0x400n });
    const stale = fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x200n });
    const real = fake.trap(0, { rip: 0n, rsp: stackPointer }, ownStack());
    expect(stale).toBeGreaterThan(real);
    expect(failed().traps.map((trap) => trap.address)).toEqual([real]);
    expect(threadStackPointer(fake.xen(), failed())).toBe(stackPointer);
  });

  it('end where the stack pointer was lost, and the thread counts as deep in Xen', () => {
    fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x10n });
    const real = fake.trap(0, { rip: 0n, rsp: 0xfff7_8300_79f0_7d70n }, ownStack());
    expect(failed().traps.map((trap) => trap.address)).toEqual([real]);
    expect(threadStackPointer(fake.xen(), failed())).toBe(failed().stack.base);
  });

  it('of interrupts within interrupts are found all', () => {
    const outer = fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x10n });
    const inner = fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x240n });
    expect(failed().traps.map((trap) => trap.address)).toEqual([inner, outer]);
  });
});

describe('the vCPU of a CPU', () => {
  it('is what the scheduler says where the CPU’s own word is damaged', () => {
    fake.enterXen(0, 'vcpu_wake');
    fake.put(fake.perCpu('curr_vcpu', 0), 8, fake.idle[0]!.address);
    fake.set('cpu_info', fake.frame(0), 'current_vcpu', 0x1234n);
    expect(failed().current.address).toBe(fake.dom0.address);
  });
});
