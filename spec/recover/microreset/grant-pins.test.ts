import { beforeEach, describe, expect, it } from 'vitest';
import { grantPins } from '../../../src/recover/microreset/grant-pins.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const HOST = 2;
const READ_ONLY = 4;
/** `GTF_permit_access`, `GTF_reading`, `GTF_writing`. */
const PERMIT = 1;
const READING = 8;
const WRITING = 16;
const WRITES = 0x1;
const READS = 0x100;
/** In the second page of active entries. */
const REF = 150;
let fake: FakeXen;
let active: bigint;
let flagsAt: bigint;
let maptrack: bigint;

beforeEach(() => {
  fake = new FakeXen();
  maptrack = fake.alloc(4096, 4096);
  const mapper = tableOf(fake.dom0.domain, 1);
  fake.set('grant_table', mapper, 'maptrack', arrayOf(maptrack));
  fake.set('grant_table', mapper, 'maptrack_limit', 256);
});

const arrayOf = (...pages: bigint[]): bigint => {
  const array = fake.alloc(8 * pages.length);
  for (const [n, page] of pages.entries()) fake.put(array + BigInt(8 * n), 8, page);
  return array;
};

function tableOf(domain: bigint, version: number): bigint {
  const table = fake.new('grant_table');
  fake.set('grant_table', table, 'gt_version', version);
  fake.set('domain', domain, 'grant_table', table);
  return table;
}

/** d1 has granted a page: how often it is pinned, and what d1 is told about its use. */
function granted(pin: number, flags: number, version = 1): void {
  const table = tableOf(fake.hvm.domain, version);
  const entries = [1, 2, 3, 4, 5, 6].map(() => fake.alloc(4096, 4096));
  const told = fake.alloc(4096, 4096);
  const { size } = fake.profile.struct('active_grant_entry');
  const perPage = Math.floor(4096 / size);
  active = entries[Math.floor(REF / perPage)]! + BigInt((REF % perPage) * size);
  flagsAt = told + BigInt(REF * (version === 1 ? 8 : 2));
  fake.set('grant_table', table, 'nr_grant_frames', 1);
  fake.set('grant_table', table, 'active', arrayOf(...entries));
  fake.set('grant_table', table, version === 1 ? 'shared_raw' : 'status', arrayOf(told));
  fake.set('active_grant_entry', active, 'pin', pin);
  fake.put(flagsAt, 2, flags);
}

/** dom0 has the grant mapped, behind this handle. */
function mapped(handle: number, flags: number): void {
  const entry = maptrack + BigInt(handle * fake.profile.struct('grant_mapping').size);
  fake.set('grant_mapping', entry, 'ref', REF);
  fake.set('grant_mapping', entry, 'domid', 1);
  fake.set('grant_mapping', entry, 'flags', flags);
}

function outcome(): { pin: number; flags: number; findings: readonly string[] } {
  const { after, findings } = planWith(fake, grantPins);
  return {
    pin: after.object('active_grant_entry', active).num('pin'),
    flags: after.memory.u16(flagsAt),
    findings,
  };
}

const findings = ['grant 150 of d1 is pinned by nobody any more'];

describe('the pin of a dropped copy', () => {
  it('is taken back, and the guest told that nobody uses its page', () => {
    granted(WRITES, PERMIT | READING | WRITING);
    expect(outcome()).toEqual({ pin: 0, flags: PERMIT, findings });
  });

  it('is taken back in tables of version 2, where the guest is told elsewhere', () => {
    granted(READS, READING, 2);
    expect(outcome()).toEqual({ pin: 0, flags: 0, findings });
  });

  it('is taken back from a grant that stays mapped', () => {
    mapped(3, HOST | READ_ONLY);
    granted(READS + WRITES, PERMIT | READING | WRITING);
    expect(outcome()).toEqual({ pin: READS, flags: PERMIT | READING, findings });
  });
});

describe('what mappings explain', () => {
  it('is left alone', () => {
    mapped(0, HOST);
    mapped(1, HOST);
    granted(2 * WRITES, PERMIT | READING | WRITING);
    expect(outcome()).toEqual({ pin: 2, flags: PERMIT | READING | WRITING, findings: [] });
  });

  it('does not add pins, nor do entries that map nothing any more', () => {
    mapped(0, HOST);
    mapped(1, 0);
    granted(READS, PERMIT | READING);
    expect(outcome()).toEqual({ pin: READS, flags: PERMIT | READING, findings: [] });
  });
});
