import { mkdtempSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseLog, RunLog } from '../../src/campaign/log.js';
import { record } from './records.js';

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ninelives-log-'));
  path = join(dir, 'runs.ndjson');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const lines = (...runs: number[]): string => runs.map((run) => `${JSON.stringify(record(run))}\n`).join('');
const read = () => parseLog(readFileSync(path));
const runsOf = (parsed: ReturnType<typeof parseLog>): number[] => parsed.records.map(({ run }) => run);

describe('reading a run log', () => {
  it('gives the records in their order', () => {
    const parsed = parseLog(Buffer.from(lines(3, 1, 2)));
    expect(runsOf(parsed)).toEqual([3, 1, 2]);
    expect(parsed.damage).toEqual([]);
    expect(parsed.records[0]).toEqual(record(3));
  });

  it('keeps everything before a torn last line, wherever it was torn', () => {
    const whole = Buffer.from(lines(0, 1, 2));
    const before = Buffer.from(lines(0, 1)).length;
    fc.assert(
      fc.property(fc.integer({ min: before, max: whole.length - 1 }), (length) => {
        const parsed = parseLog(whole.subarray(0, length));
        expect(runsOf(parsed)).toEqual([0, 1]);
        expect(parsed.completeBytes).toBe(before);
        expect(parsed.damage).toEqual(
          length === before ? [] : [expect.objectContaining({ line: 3, offset: before, kind: 'torn' })],
        );
      }),
    );
  });

  it('tells a damaged line in the middle with its place, and keeps all others', () => {
    const text = `${lines(0)}${lines(1).replace('"run"', '"rnu"')}${lines(2)}`;
    const parsed = parseLog(Buffer.from(text));
    expect(runsOf(parsed)).toEqual([0, 2]);
    expect(parsed.damage).toMatchObject([{ line: 2, offset: lines(0).length, kind: 'damaged' }]);
    expect(parsed.damage[0]!.why).toContain('run');
  });

  it('never throws, whatever bytes it is given', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(400), (noise, at) => {
        const bytes = Buffer.from(lines(0, 1));
        bytes.set(noise.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
        const parsed = parseLog(bytes);
        expect(parsed.records.length).toBeLessThanOrEqual(bytes.length);
      }),
    );
  });

  it('counts the last record of a run that was made again', () => {
    const failed = record(1, { outcome: 'infra', errorCode: 'NL_QEMU_EXITED' });
    const parsed = parseLog(Buffer.from(`${lines(0)}${JSON.stringify(failed)}\n${lines(2, 1)}`));
    expect(parsed.records.map(({ run, outcome }) => [run, outcome])).toEqual([
      [0, 'detected'],
      [2, 'detected'],
      [1, 'detected'],
    ]);
  });

  it('takes runs of different variants apart', () => {
    const text = [0, 1].map((variant) => `${JSON.stringify(record(7, { variant }))}\n`).join('');
    expect(parseLog(Buffer.from(text)).records).toHaveLength(2);
  });
});

describe('writing a run log', () => {
  it('appends a line for each record', () => {
    using log = RunLog.open(path);
    log.append(record(0));
    log.append(record(1));
    expect(readFileSync(path, 'utf8')).toBe(lines(0, 1));
  });

  it('cuts off what a crash has left of the last line, and goes on after the one before', () => {
    writeFileSync(path, lines(0) + lines(1).slice(0, 40));
    using log = RunLog.open(path);
    log.append(record(2));
    expect(readFileSync(path, 'utf8')).toBe(lines(0, 2));
  });

  it('leaves damage in the middle as it is', () => {
    writeFileSync(path, `${lines(0)}\0\0\0\0\n${lines(1)}`);
    using log = RunLog.open(path);
    log.append(record(2));
    expect(runsOf(read())).toEqual([0, 1, 2]);
    expect(read().damage).toHaveLength(1);
  });

  it('takes a record back that does not fit on a full disk, and says so', () => {
    writeFileSync(path, lines(0));
    let room = 30;
    const full = {
      sync: () => {},
      write(fd: number, bytes: Uint8Array): number {
        if (room === 0) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
        const part = bytes.subarray(0, room);
        room = 0;
        return writeSync(fd, part);
      },
    };
    using log = RunLog.open(path, full);
    expect(() => log.append(record(1))).toThrow(expect.objectContaining({ code: 'NL_NO_SPACE' }) as Error);
    expect(readFileSync(path, 'utf8')).toBe(lines(0));
  });
});
