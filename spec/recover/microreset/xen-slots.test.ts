import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { xenSlots } from '../../../src/recover/microreset/xen-slots.js';
import type { Plan } from '../../../src/recover/plan.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { pageInfo } from '../../../src/xen/frames.js';
import { FakeXen } from '../../support/fake-xen.js';

let fake: FakeXen;
let table: bigint;

const directMap = (): bigint => BigInt(fake.profile.constant('DIRECTMAP_VIRT_START'));
const frameAt = (address: bigint): bigint => (address - directMap()) >> 12n;
const own = (frame: bigint): bigint => (frame << 12n) | 0x8000_0000_0000_0063n;
const setSlot = (slot: number, value: bigint): void => fake.put(table + BigInt(8 * slot), 8, value);

/** A top-level table of dom0's as Xen makes it. */
beforeEach(() => {
  fake = new FakeXen();
  const perDomain = frameAt(fake.alloc(4096, 4096));
  fake.set('domain', fake.dom0.domain, 'arch.perdomain_l3_pg', pageInfo(fake.xen(), Number(perDomain)).address);
  table = fake.alloc(4096, 4096);
  fake.set('vcpu', fake.dom0.address, 'arch.guest_table', frameAt(table));
  fake.set('vcpu', fake.dom0.address, 'arch.guest_table_user', 0);
  for (let slot = 256; slot <= 271; slot++)
    setSlot(slot, fake.xen().memory.u64(fake.symbol('idle_pg_table'), 8 * slot));
  setSlot(258, own(frameAt(table)));
  setSlot(260, own(perDomain));
});

function plan(): Plan {
  const xen = fake.xen();
  return makePlan({ name: 'test', steps: [xenSlots] }, xen, readEntryFacts(xen));
}
const edited = (): bigint[] => plan().edits.map((edit) => ('address' in edit ? (edit.address - table) / 8n : -1n));

describe('xen-slots', () => {
  it('leaves a table alone that is as it has to be', () => {
    expect(plan().edits).toEqual([]);
  });

  it('writes what is known of slots that are not, wherever they were to lead', () => {
    const before = fake.xen().memory.bytes(table + 8n * 256n, 128);
    for (const slot of [258, 260, 261, 262, 263]) setSlot(slot, 0x1234_5063n);
    expect(edited()).toEqual([258n, 260n, 261n, 262n, 263n]);
    for (const edit of plan().edits) if (edit.kind === 'memory') fake.putBytes(edit.address, edit.after);
    expect(fake.xen().memory.bytes(table + 8n * 256n, 128)).toEqual(before);
  });

  it('lets a table for processes be without the list of frames', () => {
    setSlot(256, 0n);
    expect(plan().edits).toEqual([]);
    setSlot(256, 0x5000n);
    expect(edited()).toEqual([256n]);
  });

  it("does not touch a guest's own slots", () => {
    setSlot(255, 0x1067n);
    setSlot(272, 0x2067n);
    expect(plan().edits).toEqual([]);
  });

  it('has nothing to say where it cannot know what is right', () => {
    setSlot(260, 0n);
    fake.set('domain', fake.dom0.domain, 'arch.perdomain_l3_pg', 0);
    expect(plan().edits).toEqual([]);
  });
});
