import { beforeEach, describe, expect, it } from 'vitest';
import { FrameWords, pageInfo } from '../../src/xen/frames.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

const L2 = { anyOf: 0, types: 1 << 2, noneOf: 0 };
const constant = (name: string): bigint => BigInt(fake.profile.constant(name));
const set = (frame: number, field: string, value: bigint | number): void => {
  fake.set('page_info', pageInfo(fake.xen(), frame).address, field, value);
};
/** A piece of free memory whose inner descriptors still say that they are page tables. */
function free(first: number, order: number): void {
  for (let frame = first; frame < first + 2 ** order; frame++) {
    set(frame, 'count_info', constant('PGC_state_free'));
    set(frame, 'u.inuse.type_info', constant('PGT_l2_page_table'));
  }
  set(first, 'v.free.order', order);
}

describe('FrameWords', () => {
  it('finds frames in use by the type that their descriptors have', () => {
    for (const frame of [0, 127, 128, 5000]) set(frame, 'u.inuse.type_info', constant('PGT_l2_page_table') | 3n);
    set(77, 'u.inuse.type_info', constant('PGT_l3_page_table') | 1n);
    expect(new FrameWords(fake.xen()).where(L2, 'all')).toEqual([0, 127, 128, 5000]);
  });

  it('tells the type of a frame only while it is in use', () => {
    set(9, 'u.inuse.type_info', constant('PGT_l1_page_table'));
    set(10, 'u.inuse.type_info', constant('PGT_l1_page_table'));
    set(10, 'count_info', constant('PGC_state_free'));
    const words = new FrameWords(fake.xen());
    expect([words.typeOf(9), words.typeOf(10), words.typeOf(1e9)]).toEqual([0x2000_0000, 0, 0]);
  });

  it.each([0, 3, 9])('skips free memory of order %i and sees what lies behind it', (order) => {
    free(1024, order);
    set(1024 + 2 ** order, 'u.inuse.type_info', constant('PGT_l2_page_table'));
    expect(new FrameWords(fake.xen()).where(L2, 'allocated')).toEqual([1024 + 2 ** order]);
  });

  it('believes no order in the middle of a piece whose beginning it has not seen, as in a capsule', () => {
    free(1024, 9);
    set(1300, 'v.free.order', 2);
    set(1536, 'u.inuse.type_info', constant('PGT_l2_page_table'));
    set(1300, 'v.free.order', 10);
    set(1280, 'v.free.order', 8);
    set(1290, 'count_info', 0);
    const missing = pageInfo(fake.xen(), 1024).address;
    const xen = fake.xen();
    const glanceAt = xen.memory.glanceAt.bind(xen.memory);
    xen.memory.glanceAt = (address) => (address === missing ? undefined : glanceAt(address));
    expect(new FrameWords(xen).where(L2, 'allocated')).toEqual([1290, 1536]);
  });

  it('takes what lies behind a hole in RAM for the beginning of a piece, since none spans it', () => {
    const SUPERPAGE = 2 ** 21 / 32;
    fake.put(fake.symbol('max_page'), 8, SUPERPAGE + 1024);
    const xen = fake.xen();
    const { glanceAt, maps } = xen.memory;
    const shifted = (address: bigint): bigint => address - BigInt(2 ** 21);
    const inHole = (address: bigint): boolean => shifted(address) < pageInfo(xen, 0).address;
    xen.memory.glanceAt = (at) => (inHole(at) ? undefined : glanceAt.call(xen.memory, shifted(at)));
    xen.memory.maps = (at) => !inHole(at) && maps.call(xen.memory, at);
    free(0, 9);
    set(300, 'count_info', 0);
    set(512, 'u.inuse.type_info', constant('PGT_l2_page_table'));
    expect(new FrameWords(xen).where(L2, 'allocated')).toEqual([SUPERPAGE + 512]);
    expect(new FrameWords(xen).where(L2, 'all')).toEqual([SUPERPAGE + 300, SUPERPAGE + 512]);
  });

  it('does not believe an order that cannot be, and sees every frame', () => {
    free(1024, 3);
    set(1024, 'v.free.order', 40);
    set(1027, 'v.free.order', 5);
    set(1028, 'count_info', 0);
    expect(new FrameWords(fake.xen()).where(L2, 'allocated')).toEqual([1028]);
  });
});
