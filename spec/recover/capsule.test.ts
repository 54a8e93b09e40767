import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isNinelivesError } from '../../src/common/errors.js';
import type { Failure } from '../../src/detect/failure.js';
import { loadCapsule, RecordingView, saveCapsule } from '../../src/recover/capsule.js';
import { makePlan } from '../../src/recover/mechanism.js';
import { microreset } from '../../src/recover/microreset/index.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import type { Xen } from '../../src/xen/xen.js';
import { FakeXen } from '../support/fake-xen.js';

const FAILURE: Failure = { kind: 'fatal-trap', cpu: 0, at: '0x0', summary: 'page fault', detectedAtMs: 12.5 };
let dir: string;
let path: string;
let fake: FakeXen;
let bytes: Buffer;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'ninelives-capsule-'));
  path = join(dir, 'one.capsule');
  fake = new FakeXen();
  fake.setHypercall(0, 29);
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x200n, r15: 0xffff_ffff_ffff_fffen });
  fake.inService[0] = [0x31];
  fake.put(fake.symbol('heap_lock'), 4, 0x0001_0000);
  const content = { xen: fake.xen(), failure: FAILURE, mechanism: microreset, note: 'seed 5' };
  saveCapsule(path, { ...content, recording: new RecordingView(fake), without: new Set(['timers']) });
  bytes = readFileSync(path);
});
afterAll(() => rmSync(dir, { recursive: true }));

const planOf = (xen: Xen) => makePlan(microreset, xen, readEntryFacts(xen), { without: new Set(['timers']) });

function codeOf(content: Uint8Array): string | undefined {
  const file = join(dir, 'other.capsule');
  writeFileSync(file, content);
  try {
    loadCapsule(file);
    return undefined;
  } catch (error) {
    if (isNinelivesError(error)) return error.code;
    throw error;
  }
}

/** The same capsule with another header. */
function withHeader(change: (header: Record<string, unknown>) => void): Uint8Array {
  const plain = gunzipSync(bytes);
  const end = plain.indexOf('\n');
  const header = JSON.parse(plain.subarray(0, end).toString()) as Record<string, unknown>;
  change(header);
  return gzipSync(Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), plain.subarray(end + 1)]));
}

describe('a capsule', () => {
  it('replays to the plan that was made of the machine', () => {
    const capsule = loadCapsule(path);
    const replayed = planOf(capsule.xen);
    expect(replayed).toEqual(planOf(fake.xen()));
    expect(replayed.edits.length).toBeGreaterThan(10);
    expect(planOf(loadCapsule(path).xen)).toEqual(replayed);
  });

  it('holds the failure, the mechanism, what was left out, and the note', () => {
    const { failure, mechanism, without, note, view } = loadCapsule(path);
    expect({ failure, mechanism, without, note }).toEqual({
      failure: FAILURE,
      mechanism: 'microreset',
      without: ['timers'],
      note: 'seed 5',
    });
    expect(view.cpuCount).toBe(2);
    for (const cpu of [0, 1]) {
      expect(view.registers(cpu)).toEqual(fake.registers(cpu));
      expect(view.lapic(cpu)).toEqual(fake.lapic(cpu));
    }
  });

  it('holds the pages that were read and no others', () => {
    const { view } = loadCapsule(path);
    const { memory } = fake.xen();
    const read = Math.floor(memory.physicalAddress(fake.symbol('heap_lock')) / 4096);
    expect(view.page(read)).toEqual(fake.page(read));
    expect(view.page(8000)).toBeUndefined();
    expect(bytes.length).toBeLessThan(100_000);
  });
});

describe('RecordingView', () => {
  it('keeps pages as they were when they were first read', () => {
    const other = new FakeXen();
    const at = other.alloc(4096, 4096);
    const recording = new RecordingView(other);
    const xen = other.xen(recording);
    expect(xen.memory.u64(at)).toBe(0n);
    other.put(at, 8, 5);
    expect(xen.memory.u64(at)).toBe(0n);
    expect(other.xen().memory.u64(at)).toBe(5n);
  });

  it('does not keep what was only glanced at', () => {
    const recording = new RecordingView(fake);
    recording.glance(5000);
    expect(recording.recorded()).toMatchObject({ frames: [], zeroFrames: [] });
    recording.page(5000);
    expect(recording.recorded()).toMatchObject({ frames: [], zeroFrames: [5000] });
  });
});

describe('a file that is no capsule', () => {
  it('is refused wherever it was cut off', () => {
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), (length) => {
        expect(codeOf(bytes.subarray(0, length))).toBe('NL_CAPSULE_INVALID');
      }),
      { numRuns: 60 },
    );
  });

  it('is refused when a byte of it was damaged, or read as it was', () => {
    fc.assert(
      fc.property(fc.integer({ min: 10, max: bytes.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = Uint8Array.from(bytes);
        damaged[at]! ^= flip;
        // A few bits of a gzip file mean nothing.
        if (codeOf(damaged) === undefined) expect(gunzipSync(damaged)).toEqual(gunzipSync(bytes));
        else expect(codeOf(damaged)).toBe('NL_CAPSULE_INVALID');
      }),
      { numRuns: 60 },
    );
  });

  it.each([
    ['text', Buffer.from('not a capsule')],
    ['nothing', Buffer.alloc(0)],
    ['another gzip file', gzipSync('hello\n')],
    ['a header without pages', gzipSync('{}\n')],
  ])('is refused: %s', (_, content) => {
    expect(codeOf(content)).toBe('NL_CAPSULE_INVALID');
  });

  it('is refused when its header lacks something or is of another version', () => {
    const codes = [
      withHeader((header) => {
        delete header.cpus;
      }),
      withHeader((header) => {
        header.format = 'ninelives capsule 2';
      }),
      withHeader((header) => {
        header.frames = [1];
      }),
    ].map(codeOf);
    expect(codes).toEqual(['NL_CAPSULE_INVALID', 'NL_CAPSULE_INVALID', 'NL_CAPSULE_INVALID']);
  });

  it('that does not exist is refused, and one of an unknown build says which', () => {
    expect(() => loadCapsule(join(dir, 'none'))).toThrow(expect.objectContaining({ code: 'NL_CAPSULE_INVALID' }));
    const stranger = withHeader((header) => {
      header.buildId = 'ab'.repeat(20);
    });
    expect(codeOf(stranger)).toBe('NL_PROFILE_UNKNOWN');
  });
});
