import { describe, expect, it } from 'vitest';
import { rate, summarizeRecords } from '../../../src/campaign/summary.js';
import { beside } from '../../../src/report/campaigns/beside-published.js';
import { causeKey, generalized } from '../../../src/report/campaigns/causes.js';
import { type CampaignInput, seriesOf } from '../../../src/report/campaigns/input.js';
import { campaignReport } from '../../../src/report/campaigns/report.js';
import { milliseconds, percent, rateText } from '../../../src/report/campaigns/words.js';
import { plain, type Report, type TableBlock } from '../../../src/report/document/document.js';
import { html } from '../../../src/report/document/html.js';
import { markdown } from '../../../src/report/document/markdown.js';
import { plainText } from '../../../src/report/document/text.js';
import { GOOD, generatedCampaign } from './generated.js';

const failstop = generatedCampaign(GOOD);
const code = generatedCampaign({
  ...GOOD,
  name: 'code',
  fault: 'code',
  seed: 9,
  detected: 0.55,
  sdc: 0.1,
  noVmf: 0.8,
  oneVm: 0.05,
});
const input = (...campaigns: readonly CampaignInput[]) => ({
  campaigns,
  evidencePath: ({ dir }: CampaignInput, path: string) => `${dir}/${path}`,
});
const report = campaignReport(input(failstop, code));

const tables = (of: Report, section: string): TableBlock[] =>
  (of.sections.find(({ id }) => id === section)?.blocks ?? []).filter((block) => block.kind === 'table');
const cells = (table: TableBlock | undefined): string[][] => (table?.rows ?? []).map((row) => row.cells.map(plain));

describe('a report', () => {
  it('has the same rates as the summary of the campaign', () => {
    const { rates, detected, runs } = summarizeRecords(failstop.records);
    const [row] = cells(tables(report, 'glance')[0]);
    expect(row).toEqual(
      expect.arrayContaining([String(runs), String(detected), rateText(rates.success), rateText(rates.noVmf)]),
    );
  });

  it('counts runs in which we failed nowhere, and names them', () => {
    const own = failstop.records.filter(({ outcome }) => outcome === 'infra').length;
    expect(own).toBeGreaterThan(0);
    const [row] = cells(tables(report, 'glance')[0]);
    expect(row?.[2]).toBe(String(failstop.records.length - own));
    const only = campaignReport(
      input({ ...failstop, records: failstop.records.filter(({ outcome }) => outcome !== 'infra') }),
    );
    for (const id of ['outcomes', 'published', 'latency', 'outage', 'places', 'causes'])
      expect(tables(only, id).map(cells)).toEqual(tables(campaignReport(input(failstop)), id).map(cells));
    expect(plain(tables(report, 'own-errors')[0]?.rows[0]?.cells[0] ?? '')).toBe('NL_STUB_LOST');
  });

  it('sets our rates beside the published ones of the same fault type', () => {
    const rows = cells(tables(report, 'published')[0]);
    expect(rows.map(([fault, system]) => `${fault}: ${system}`)).toEqual([
      'Failstop: nilihype-failstop-3appvm',
      'Failstop: NiLiHype, published',
      'Failstop: ReHype, published',
      'Code: code',
      'Code: NiLiHype, published',
      'Code: ReHype, published',
    ]);
    expect(rows[1]).toEqual(expect.arrayContaining(['98.6 % [97.7, 99.2]', '94.6 % [93.0, 95.9]']));
  });

  it('lists causes by frequency, each with all of its runs', () => {
    const [causes] = tables(report, 'causes');
    const counts = cells(causes).map(([count]) => Number(count));
    expect(counts).toEqual([...counts].sort((a, b) => b - a));
    const affected = [...failstop.records, ...code.records].filter(
      ({ outcome, end }) => outcome === 'detected' && end !== 'no-vmf',
    );
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(affected.length);
  });

  it('has a timeline for every run, and a place for every link', () => {
    const page = html(report);
    const ids = new Set([...page.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id));
    expect([...page.matchAll(/ id="/g)].length).toBe(ids.size);
    for (const [, to] of page.matchAll(/href="#([^"]+)"/g)) expect(ids).toContain(to);
    expect([...page.matchAll(/class="run" /g)].length).toBe(failstop.records.length + code.records.length);
  });

  it('leaves out timelines where they are not wanted', () => {
    expect(html(campaignReport(input(failstop), 'none'))).not.toContain('class="run" ');
    const noteworthy = html(campaignReport(input(code), 'noteworthy'));
    expect(noteworthy).toContain('silent data corruption (');
    expect(noteworthy).not.toContain('nothing happened (');
  });

  it('says that a campaign is not complete, and that its log is damaged', () => {
    const part = {
      ...failstop,
      records: failstop.records.slice(0, 50),
      damage: [{ line: 51, offset: 0, bytes: 3, kind: 'torn' as const, why: 'cut' }],
    };
    const text = plainText(campaignReport(input(part)));
    expect(text).toContain('50 of 200 runs');
    expect(text).toContain('1 of its lines cannot be read');
  });

  it('stands on an empty campaign and on golden runs only', () => {
    const golden = failstop.records.slice(0, 20).map((record) => {
      const { point: _, end: __, ...rest } = record;
      return { ...rest, outcome: 'golden' as const, planned: { ...record.planned, fault: 'none' }, failures: [] };
    });
    for (const records of [[], golden]) {
      const page = html(campaignReport(input({ ...failstop, records })));
      expect(page).not.toMatch(/NaN|undefined|Infinity/);
    }
    expect(plainText(campaignReport(input({ ...failstop, records: golden })))).toContain('Golden runs');
  });

  it('compares the variants of a campaign with the published increments', () => {
    const variants = [
      { name: 'discard threads', adds: [] },
      { name: 'release locks', adds: ['locks'] },
      { name: 'all', without: [] },
    ];
    const records = failstop.records.map((record, index) => ({ ...record, variant: index % 3 }));
    const text = plainText(campaignReport(input({ ...failstop, file: { ...failstop.file, variants }, records })));
    expect(text).toMatch(/ours +release locks +\+ locks/);
    expect(text).toMatch(/NiLiHype, published +discard all threads/);
  });
});

describe('series', () => {
  it('of campaigns of one name are told apart', () => {
    const names = seriesOf([failstop, { ...failstop, dir: 'other' }, { ...failstop, dir: 'x/other' }]).map(
      ({ name }) => name,
    );
    expect(names).toEqual([
      'nilihype-failstop-3appvm',
      'nilihype-failstop-3appvm (other)',
      'nilihype-failstop-3appvm (other) #2',
    ]);
  });
});

describe('what a report escapes', () => {
  const [first] = code.records.filter(({ outcome }) => outcome === 'sdc');
  const evil = { ...first!, cause: '</script><img src=x onerror=alert(1)> | `x` *y*', evidence: ['a b/"c".txt'] };
  const bad = campaignReport(input({ ...code, records: [evil] }));

  it('cannot become markup in the page', () => {
    const page = html(bad);
    expect(page).not.toContain('<img src=x');
    expect(page).toContain('&lt;img src=x onerror=alert(1)&gt;');
  });

  it('cannot break a table of Markdown', () => {
    const line = markdown(bad)
      .split('\n')
      .find((one) => one.includes('onerror'));
    expect(line).toContain('\\<img');
    expect(line).toContain(' \\| ');
  });
});

describe('causes', () => {
  it.each([
    ['page fault in Xen at 0xffff82d040212345', 'page fault in Xen at 0x…'],
    ['BUG at sched/core.c:1234', 'BUG at sched/core.c:N'],
    ['fatal trap in schedule+0x1c4/0x600 on CPU 3', 'fatal trap in schedule on a CPU'],
    ['app1: stands still', 'an AppVM: stands still'],
    ['d3v0 is on no run queue', 'a vCPU is on no run queue'],
    ['csched2_schedule is in vector 14', 'csched2_schedule is in vector N'],
  ])('"%s" is one of "%s"', (cause, group) => {
    expect(generalized(cause, ['app1', 'app2'])).toBe(group);
  });

  it('of a record without one is unknown', () => {
    expect(causeKey({ ...failstop.records[0]!, cause: undefined })).toBe('unknown');
  });
});

describe('figures', () => {
  it.each([
    [0, '0 %'],
    [1, '100 %'],
    [0.5, '50.0 %'],
    [0.9997, '99.97 %'],
    [0.0002, '0.02 %'],
  ])('%d is %s', (share, text) => {
    expect(percent(share)).toBe(text);
  });

  it.each([
    [undefined, '–'],
    [Number.NaN, '–'],
    [0.123, '0.12'],
    [14.83, '14.8'],
    [412.4, '412'],
    [12_345, '12 345'],
  ])('%d milliseconds are %s', (value, text) => {
    expect(milliseconds(value)).toBe(text);
  });

  it('say where an interval lies to a published figure', () => {
    expect(beside(rate(1000, 1000), 0.986)).toBe('above');
    expect(beside(rate(50, 50), 0.986)).toBe('overlaps');
    expect(beside(rate(10, 100), 0.986)).toBe('below');
    expect(beside(rate(0, 0), 0.986)).toBe('–');
  });
});
