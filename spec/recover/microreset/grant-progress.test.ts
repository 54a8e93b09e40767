import { beforeEach, describe, expect, it } from 'vitest';
import { grantProgress } from '../../../src/recover/microreset/grant-progress.js';
import { guestInDirectMap } from '../../../src/xen/guest-memory.js';
import { FakeXen, GUEST_KERNEL } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const GRANT_TABLE_OP = 20;
const LIST = GUEST_KERNEL + 0x800n;
const HOST_MAP = 2;
let fake: FakeXen;
let maptrack: bigint;

beforeEach(() => {
  fake = new FakeXen();
  const table = fake.new('grant_table');
  const pages = fake.alloc(8);
  maptrack = fake.alloc(4096, 4096);
  fake.put(pages, 8, maptrack);
  fake.set('grant_table', table, 'maptrack', pages);
  fake.set('grant_table', table, 'maptrack_limit', 256);
  fake.set('domain', fake.dom0.domain, 'grant_table', table);
});

/** One element of dom0's list, and its entry of the table of mapped grants; the handle is the element's index. */
function element(struct: string, index: number, fields: Readonly<Record<string, number>>, flags: number): void {
  const xen = fake.xen();
  const size = BigInt(fake.profile.struct(struct).size);
  const at = guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), LIST + BigInt(index) * size)!;
  for (const [name, value] of Object.entries({ handle: index, ...fields })) fake.set(struct, at, name, value);
  const entry = maptrack + BigInt(index * fake.profile.struct('grant_mapping').size);
  fake.set('grant_mapping', entry, 'flags', flags);
  fake.set('grant_mapping', entry, 'ref', 100 + index);
  fake.set('grant_mapping', entry, 'domid', 1);
}
const map = (index: number, status: number, flags = HOST_MAP): void =>
  element('gnttab_map_grant_ref', index, { status, ref: 100 + index, dom: 1, flags: HOST_MAP }, flags);
const unmap = (index: number, status: number, flags: number): void =>
  element('gnttab_unmap_grant_ref', index, { status }, flags);

function retryBeginsAt(command: number, count: number): (number | bigint)[] {
  fake.setHypercall(0, GRANT_TABLE_OP);
  fake.setFrame(0, { rdi: command, rsi: LIST, rdx: count });
  fake.enterXen(0, 'do_grant_table_op');
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  const frame = planWith(fake, grantProgress).after.object('cpu_user_regs', fake.frame(0));
  return [Number(frame.u64('rsi') - LIST), Number(frame.u64('rdx'))];
}

describe('a list of grants to map', () => {
  it('is repeated from the first element that is not mapped', () => {
    map(0, 0);
    map(1, 0);
    map(2, 1, 0);
    expect(retryBeginsAt(0, 3)).toEqual([64, 1]);
  });

  it('is repeated from the start when only the guest’s memory says that something was done', () => {
    map(0, 0, 0);
    expect(retryBeginsAt(0, 1)).toEqual([0, 1]);
  });

  it('has nothing left when all of it was done', () => {
    map(0, 0);
    expect(retryBeginsAt(0, 1)).toEqual([32, 0]);
  });
});

describe('a list of grants to unmap', () => {
  it('is repeated from the first element that is still mapped', () => {
    unmap(0, 0, 0);
    unmap(1, 0, HOST_MAP);
    expect(retryBeginsAt(1, 2)).toEqual([24, 1]);
  });
});

it('lists of grants to copy are repeated from the start', () => {
  map(0, 0);
  expect(retryBeginsAt(5, 1)).toEqual([0, 1]);
});
