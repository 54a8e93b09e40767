import { beforeEach, describe, expect, it } from 'vitest';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { takenOut } from '../../src/xen/taken-out.js';
import { FakeXen } from '../support/fake-xen.js';

/** The last place of a CPU's notes, which counts them. */
const COUNT_SLOT = 207;

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

/** Where CPUs count as, the first in dom0 and the second in an HVM guest unless a test says otherwise. */
function where(damaged: readonly number[] = []): string[] {
  const xen = fake.xen();
  const { cpus } = takenOut(xen, readSituation(xen, readEntryFacts(xen), listDomains(xen)), new Set(damaged));
  return cpus.map((state) => state.where);
}

describe('takenOut', () => {
  it('leaves the others alone where somebody is in Xen', () => {
    fake.run(0, fake.idle[0]!);
    fake.enterXen(1, 'vcpu_wake');
    expect(where()).toEqual(['halted', 'xen']);
  });

  it('takes CPUs that wait where nobody is, and none with a guest', () => {
    fake.run(1, fake.idle[1]!);
    expect(where()).toEqual(['guest', 'xen']);
  });

  it('takes those with an interrupt in service that nobody acknowledges, unless a guest is to', () => {
    fake.run(0, fake.idle[0]!);
    fake.enterXen(1, 'vcpu_wake');
    fake.inService[0]!.push(0x68);
    expect(where()).toEqual(['xen', 'xen']);
    const notes = fake.perCpu('pending_eoi', 0);
    const size = fake.profile.struct('pending_eoi').size;
    fake.put(notes, 4, 0x68 << 24);
    fake.put(notes + BigInt(COUNT_SLOT * size), 4, 1 << 24);
    expect(where()).toEqual(['halted', 'xen']);
  });

  it('takes those whose tables are damaged', () => {
    fake.enterXen(1, 'vcpu_wake');
    expect(where([0])).toEqual(['xen', 'xen']);
  });
});
