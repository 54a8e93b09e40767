import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lockSites, typeSites } from '../../src/layout/locks.js';
import { makeProfile, makeProfileFrom } from '../../src/layout/make.js';
import { loadProfile, parseProfile } from '../../src/layout/profile.js';
import { DATA, TEXT, tinyBytes, tinyXen } from './tiny-xen.js';

const STOCK = { buildId: 'bb'.repeat(20), dwarf: false };
const made = makeProfileFrom(tinyXen(), tinyXen(STOCK));
const profile = parseProfile(made.json, 'bb'.repeat(20));

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'ninelives-profile-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('making a profile', () => {
  it('takes types from one file, symbols and build-id from the other, and notes both', () => {
    expect(made.buildId).toBe('bb'.repeat(20));
    expect(made.version).toBe('4.17.9-test');
    expect(profile.made).toMatchObject({
      typesBuildId: 'aa'.repeat(20),
      compiler: 'GCC: test 1.0',
      text: { verdict: 'same-code', functions: 100, same: 100, different: [] },
    });
  });

  it('works from files, and of one file that has both', () => {
    const path = join(dir, 'xen-syms');
    writeFileSync(path, tinyBytes());
    expect(makeProfile(path).buildId).toBe('aa'.repeat(20));
    expect(() => makeProfile(join(dir, 'nothing'))).toThrow(expect.objectContaining({ code: 'NL_USAGE' }));
  });

  it('is made the same every time', () => {
    expect(makeProfileFrom(tinyXen(), tinyXen(STOCK)).json).toBe(made.json);
  });

  it('accepts code and data that merely lie elsewhere', () => {
    const moved = makeProfileFrom(tinyXen(), tinyXen({ ...STOCK, shift: 64, dataShift: 32 }));
    expect(moved.text.verdict).toBe('same-code');
    expect(parseProfile(moved.json, moved.buildId).symbol('f0')).toBe(TEXT + 64n);
  });

  it('refuses other code, unless that leaves the layouts alone and is asked for', () => {
    const other = tinyXen({ ...STOCK, changed: true });
    expect(() => makeProfileFrom(tinyXen(), other)).toThrow(expect.objectContaining({ code: 'NL_SYMBOLS_MISMATCH' }));
    const allowed = makeProfileFrom(tinyXen(), other, { onDifferentCode: 'validate' });
    expect(allowed.text).toMatchObject({ verdict: 'layouts-hold', functions: 100, same: 99, different: ['f3'] });
  });

  it('refuses code that reaches for a member elsewhere, whatever is asked for', () => {
    const other = tinyXen({ ...STOCK, distance: 0x18 });
    expect(() => makeProfileFrom(tinyXen(), other, { onDifferentCode: 'validate' })).toThrow(/schedule: 16 -> 24/);
  });

  it('refuses a version whose constants are not known', () => {
    const xen = tinyXen({ version: '4.99.1-test' });
    expect(() => makeProfileFrom(xen, xen)).toThrow(expect.objectContaining({ code: 'NL_USAGE' }));
  });

  it('refuses types without DWARF', () => {
    expect(() => makeProfileFrom(tinyXen(STOCK), tinyXen(STOCK))).toThrow(
      expect.objectContaining({ code: 'NL_ELF_INVALID' }),
    );
  });
});

describe('loading a profile', () => {
  it('finds it by build-id', () => {
    writeFileSync(join(dir, `${made.buildId}.json`), made.json);
    expect(loadProfile(made.buildId, dir).version).toBe('4.17.9-test');
  });

  it('says which ones there are when there is none', () => {
    writeFileSync(join(dir, `${made.buildId}.json`), made.json);
    const error = expect.objectContaining({
      code: 'NL_PROFILE_UNKNOWN',
      message: expect.stringContaining(`${made.buildId}  Xen 4.17.9-test`) as string,
    });
    expect(() => loadProfile('cc'.repeat(20), dir)).toThrow(error);
    expect(() => loadProfile('../../etc/passwd', dir)).toThrow(error);
  });

  it.each([
    ['is no JSON', '{'],
    ['has another format', made.json.replace('"format": 1', '"format": 99')],
    ['is of another build', made.json.replace('bb'.repeat(20), 'cc'.repeat(20))],
    ['lacks a part', made.json.replace('"structs":', '"strukts":')],
  ])('refuses one that %s', (_, json) => {
    expect(() => parseProfile(json, made.buildId)).toThrow(expect.objectContaining({ code: 'NL_PROFILE_MISMATCH' }));
  });
});

describe('a profile', () => {
  it('knows symbols, those of one name by their file', () => {
    expect(profile.symbol('idle_vcpu')).toBe(DATA + 64n);
    expect(profile.hasSymbol('nothing')).toBe(false);
    expect(() => profile.symbol('nothing')).toThrow(expect.objectContaining({ code: 'NL_PROFILE_MISMATCH' }));
    expect(profile.symbol('other.c#count.3')).toBe(DATA + 260n);
    expect(() => profile.symbol('count.3')).toThrow(/all.c#count.3, other.c#count.3/);
    expect(profile.symbolsMatching(/^f9\d$/)).toHaveLength(9);
  });

  it('says what stands at an address', () => {
    expect(profile.describe(TEXT + 35n)).toBe('f1+0x3');
    expect(profile.describe(TEXT)).toBe('f0');
    expect(profile.describe(5n)).toBe('0x5');
    expect(profile.isText(TEXT + 5n)).toBe(true);
    expect(profile.isText(DATA)).toBe(false);
  });

  it('follows paths through structs, anonymous unions and arrays', () => {
    const vcpu = profile.struct('vcpu');
    expect(vcpu.size).toBe(128);
    expect(vcpu.field('arch.pv.trap_bounce.flags')).toMatchObject({
      offset: 72 + 16 + 8 + 12,
      size: 1,
      type: { kind: 'base', signed: false },
    });
    expect(vcpu.field('virq[3]')).toMatchObject({ offset: 10, size: 2 });
    expect(vcpu.field('virq').size).toBe(48);
    expect(vcpu.field('locks[1].recurse_cpu')).toMatchObject({ offset: 68, size: 2, bit: { offset: 0, width: 12 } });
    expect(vcpu.field('vcpu_id').type).toMatchObject({ kind: 'base', signed: true });
    expect(vcpu.field('arch.flags')).toBe(vcpu.field('arch.flags'));
  });

  it.each(['nothing', 'virq[24]', 'virq[x]', 'vcpu_id.x', 'arch.nothing', '', 'constructor'])(
    'has no member %j',
    (path) => {
      expect(profile.struct('vcpu').hasField(path)).toBe(false);
      expect(() => profile.struct('vcpu').field(path)).toThrow(
        expect.objectContaining({ code: 'NL_PROFILE_MISMATCH' }),
      );
    },
  );

  it('knows structs by their typedef too, and variables, enum constants and macros', () => {
    expect(profile.struct('spinlock_t').size).toBe(8);
    expect(profile.variableType('idle_vcpu')).toEqual({
      kind: 'array',
      count: 8,
      of: { kind: 'pointer', to: { kind: 'struct', name: 'vcpu' } },
    });
    expect(profile.variableType('all.c#count.3')).toMatchObject({ kind: 'base', size: 4 });
    expect(profile.enumValue('RCU_SOFTIRQ')).toBe(1);
    expect(profile.constant('STACK_SIZE')).toBe(32768);
    expect(profile.constant('DIRECTMAP_VIRT_START')).toBe(0xffff830000000000n);
    for (const missing of [
      () => profile.struct('toString'),
      () => profile.variableType('x'),
      () => profile.enumValue('x'),
      () => profile.constant('x'),
    ])
      expect(missing).toThrow(expect.objectContaining({ code: 'NL_PROFILE_MISMATCH' }));
  });

  it('has every lock by its type, and says which arm of a union one is in', () => {
    const { globals, perCpu, inStruct } = lockSites(profile);
    expect(globals).toEqual([{ name: 'heap_lock', path: '', offset: 0, kind: 'spinlock' }]);
    expect(perCpu).toEqual([{ name: 'per_cpu__timers', path: 'lock', offset: 16, kind: 'spinlock' }]);
    expect(inStruct.get('vcpu')).toEqual([
      { path: 'locks[0]', offset: 56, kind: 'spinlock' },
      { path: 'locks[1]', offset: 64, kind: 'spinlock' },
      { path: 'arch.hvm.tm_lock', offset: 72 + 16 + 8, kind: 'spinlock', arm: 'arch.hvm' },
    ]);
    // A lock is one thing: what it is built from is not listed again.
    expect(inStruct.has('percpu_rwlock')).toBe(false);
    expect(inStruct.has('rwlock_t')).toBe(false);
  });

  it('finds the places of any other struct likewise', () => {
    const sites = typeSites(profile, new Map([['trap_bounce', 'bounce' as const]]));
    expect(sites.inStruct.get('vcpu')).toEqual([
      { path: 'arch.pv.trap_bounce', offset: 96, kind: 'bounce', arm: 'arch.pv' },
    ]);
  });
});
