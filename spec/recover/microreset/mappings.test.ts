import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { mappings } from '../../../src/recover/microreset/mappings.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { pageInfo } from '../../../src/xen/frames.js';
import { FakeXen } from '../../support/fake-xen.js';

const PRESENT = 1n;
const WRITABLE = 2n;
let fake: FakeXen;
let tables: { readonly 1: number; readonly second: number; readonly other: number };

beforeEach(() => {
  fake = new FakeXen();
  const [top, third, second, first, other] = [4, 3, 2, 1, 1].map((level) => newTable(level)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  link(top, 0, third, PRESENT);
  link(third, 0, second, PRESENT);
  link(second, 0, first, PRESENT);
  tables = { 1: first, second, other };
  fake.set('vcpu', fake.dom0.address, 'arch.guest_table', top);
});

const constant = (name: string): bigint => BigInt(fake.profile.constant(name));
const descriptor = (frame: number): bigint => pageInfo(fake.xen(), frame).address;
const newFrame = (): number => Number(fake.alloc(4096, 4096) - constant('DIRECTMAP_VIRT_START')) / 4096;

function link(table: number, entry: number, to: number, flags: bigint): void {
  const at = constant('DIRECTMAP_VIRT_START') + BigInt(table * 4096 + 8 * entry);
  fake.put(at, 8, (BigInt(to) << 12n) | flags);
}

function describeFrame(frame: number, type: bigint, general: number): void {
  fake.set('page_info', descriptor(frame), 'u.inuse.type_info', type);
  fake.set('page_info', descriptor(frame), 'count_info', general);
  fake.set(
    'page_info',
    descriptor(frame),
    'v.inuse._domain',
    (fake.dom0.domain - constant('DIRECTMAP_VIRT_START')) >> 12n,
  );
}

function newTable(level: number): number {
  const frame = newFrame();
  describeFrame(frame, constant(`PGT_l${level}_page_table`) | constant('PGT_validated') | 1n, 2);
  return frame;
}

/** A writable page of dom0 with so many references of its being writable, and in all. */
function newPage(writable: number, general: number): number {
  const frame = newFrame();
  describeFrame(frame, constant('PGT_writable_page') | constant('PGT_validated') | BigInt(writable), general);
  return frame;
}

/** Has a thread be dropped with a value on its stack; what the page's counts are afterwards: writable, in all. */
function countsAfter(page: number, onStack: number = page): number[] {
  fake.enterXen(0, 'get_page_from_l1e');
  fake.put(fake.frame(0) - 0x100n, 8, descriptor(onStack));
  const xen = fake.xen();
  const plan = makePlan({ name: 'test', steps: [mappings] }, xen, readEntryFacts(xen));
  for (const edit of plan.edits) if (edit.kind === 'memory') fake.putBytes(edit.address, edit.after);
  const info = pageInfo(fake.xen(), page);
  return [info.u64('u.inuse.type_info') & constant('PGT_count_mask'), info.u64('count_info')].map(Number);
}

describe('a page that a dropped thread was mapping', () => {
  it('loses a reference that no mapping holds', () => {
    const page = newPage(2, 3);
    link(tables[1], 0, page, PRESENT | WRITABLE);
    expect(countsAfter(page)).toEqual([1, 2]);
  });

  it('loses only the general one where the mapping was to be read-only', () => {
    const page = newPage(1, 3);
    link(tables[1], 0, page, PRESENT | WRITABLE);
    expect(countsAfter(page)).toEqual([1, 2]);
  });

  it('keeps what mappings hold, also those of an address space that is not in use', () => {
    const page = newPage(2, 3);
    link(tables[1], 0, page, PRESENT | WRITABLE);
    link(tables.other, 7, page, PRESENT | WRITABLE);
    expect(countsAfter(page)).toEqual([2, 3]);
  });

  it('is left alone when the table that maps all of its guest in one piece explains it', () => {
    const page = newPage(1, 2);
    const guestFrame = 512 * 3 + 5;
    const mpt = constant('RDWR_MPT_VIRT_START') + BigInt(8 * page);
    fake.put(mpt, 8, guestFrame);
    const direct = newTable(1);
    link(tables.second, 3, direct, PRESENT);
    link(direct, 5, page, PRESENT | WRITABLE);
    expect(countsAfter(page)).toEqual([1, 2]);
  });

  it('is left alone where there is more amiss than one mapping explains', () => {
    const page = newPage(3, 4);
    link(tables[1], 0, page, PRESENT | WRITABLE);
    expect(countsAfter(page)).toEqual([3, 4]);
  });

  it('keeps the reference by which Xen itself maps it', () => {
    const page = newPage(2, 3);
    link(tables[1], 0, page, PRESENT | WRITABLE);
    fake.set('vcpu', fake.dom0.address, 'vcpu_info_mfn', page);
    expect(countsAfter(page)).toEqual([2, 3]);
  });

  it('is found through the table that was being validated', () => {
    const page = newPage(1, 2);
    const table = newFrame();
    describeFrame(table, constant('PGT_l1_page_table') | 1n, 2);
    link(table, 3, page, PRESENT | WRITABLE);
    expect(countsAfter(page, table)).toEqual([0, 1]);
  });
});
