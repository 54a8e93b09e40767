import { describe, expect, it } from 'vitest';
import { compareRecords } from '../../src/campaign/compare.js';
import { toCsv, toSqlite } from '../../src/campaign/export.js';
import type { RunRecord } from '../../src/campaign/record.js';
import { summarizeRecords } from '../../src/campaign/summary.js';
import { quiet, record } from './records.js';

const many = (count: number, make: (run: number) => RunRecord): RunRecord[] =>
  Array.from({ length: count }, (_, run) => make(run));

const MIXED: RunRecord[] = [
  record(0),
  record(1, { end: 'one-vm', cause: 'app1: it stands at step 7' }),
  record(2, { end: 'privvm', cause: 'dom0, "the" first' }),
  quiet(3),
  record(4, { outcome: 'sdc', end: undefined }),
  record(5, { outcome: 'infra', end: undefined, errorCode: 'NL_QEMU_EXITED' }),
  record(6, { outcome: 'not-reached', end: undefined }),
];

describe('a summary', () => {
  const summary = summarizeRecords(MIXED);

  it('counts a run in which we failed as no run', () => {
    expect(summary).toMatchObject({ runs: 6, infraErrors: 1, notReached: 1, notManifested: 1, sdc: 1, detected: 3 });
  });

  it('takes success and noVMF of the detected, and the rest of the faults that were made', () => {
    expect(summary.rates.success).toMatchObject({ count: 2, of: 3 });
    expect(summary.rates.noVmf).toMatchObject({ count: 1, of: 3 });
    expect(summary.rates.detected).toMatchObject({ count: 3, of: 5 });
    expect(summary.rates.sdc.interval![0]).toBeCloseTo(0.0051, 4);
  });

  it('has no rates and times where there is nothing', () => {
    expect(summarizeRecords([])).toMatchObject({
      runs: 0,
      rates: { success: { share: null, interval: null } },
      latencyMs: { count: 0, p50: null, max: null },
    });
  });
});

describe('a comparison', () => {
  it('gives the difference of the rates, its interval and its p-value', () => {
    const a = many(80, (run) => record(run, run < 48 ? {} : { end: 'vms' }));
    const b = many(70, (run) => record(run, run < 56 ? {} : { end: 'vms' }));
    const { rates } = compareRecords(a, b);
    const success = rates.find(({ name }) => name === 'success')!;
    expect(success.difference!.difference).toBeCloseTo(0.2, 10);
    expect(success.difference!.low).toBeCloseTo(0.0524, 4);
    expect(success.difference!.high).toBeCloseTo(0.3339, 4);
    expect(success.p).toBeCloseTo(0.0125, 4);
  });

  it('tells how far the same experiment went the same way twice', () => {
    const point = (at: string) => ({ cpu: 1, vcpu: 'd0v0', at, backtrace: [at], steps: 3, what: 'rip := 0' });
    const a = [record(0, { point: point('a') }), record(1, { point: point('a') }), quiet(2), record(3)];
    const b = [record(0, { point: point('a') }), record(1, { point: point('b'), end: 'one-vm' }), quiet(2)];
    const { repetition } = compareRecords([...a, record(4, { outcome: 'infra' })], [...b, record(4), record(9)]);
    expect(repetition).toMatchObject({ runs: 3, samePoint: { count: 2, of: 3 }, sameOutcome: { count: 2, of: 3 } });
    const other = record(0, { planned: { ...record(0).planned, triggerChoice: { delayMs: 7 } } });
    expect(compareRecords(a, [other]).repetition).toBeNull();
  });

  it('says nothing of rates that one of the two does not have', () => {
    const { rates } = compareRecords([record(0)], [quiet(0)]);
    expect(rates.find(({ name }) => name === 'success')).toMatchObject({ difference: null, p: null });
  });
});

describe('an export', () => {
  it('is a table that other programs can read, with quotes where they are needed', () => {
    const [head, ...rows] = toCsv(MIXED).trimEnd().split('\r\n');
    expect(head!.split(',').slice(0, 4)).toEqual(['run', 'variant', 'started_at', 'took_ms']);
    expect(rows).toHaveLength(MIXED.length);
    expect(rows[2]).toContain('"dom0, ""the"" first"');
    expect(rows[0]).toContain('"{""delayMs"":88}"');
  });

  it('is a database that can be asked', async () => {
    const bytes = await toSqlite(MIXED);
    const { default: initSqlJs } = await import('sql.js');
    const sql = await initSqlJs();
    const database = new sql.Database(bytes);
    const ask = (query: string) => database.exec(query)[0]!.values;
    expect(ask('SELECT outcome, count(*) FROM runs GROUP BY outcome ORDER BY outcome')).toEqual([
      ['detected', 3],
      ['infra', 1],
      ['not-manifested', 1],
      ['not-reached', 1],
      ['sdc', 1],
    ]);
    expect(ask('SELECT count(*) FROM vms WHERE alive')).toEqual([[7]]);
    database.close();
  });
});
