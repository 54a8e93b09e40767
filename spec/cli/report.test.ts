import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { GOOD, generatedCampaign } from '../report/campaigns/generated.js';
import { ninelives } from './ninelives.js';

let folder = '';
let campaign = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ninelives-report-'));
  campaign = join(folder, 'a campaign');
  mkdirSync(campaign);
  const { meta, records } = generatedCampaign({ ...GOOD, fault: 'code', runs: 40, noVmf: 0.5, oneVm: 0.2 });
  const file = { name: GOOD.name, runs: 40, seed: GOOD.seed, fault: { type: 'code' }, trigger: { type: 'timer' } };
  writeFileSync(join(campaign, 'campaign.yaml'), stringify(file));
  writeFileSync(join(campaign, 'meta.json'), JSON.stringify(meta));
  writeFileSync(join(campaign, 'runs.ndjson'), records.map((record) => `${JSON.stringify(record)}\n`).join(''));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('ninelives report', () => {
  it.each(['-o', '--out'])('writes a page to %s, with links to the evidence beside it', async (option) => {
    const out = join(folder, 'pages', 'report.html');
    const { status, stdout } = await ninelives('report', campaign, option, out);
    expect({ status, stdout }).toEqual({ status: 0, stdout: `${out}: 40 runs of 1 campaign\n` });
    const page = readFileSync(out, 'utf8');
    expect(page).toMatch(/^<!doctype html>/);
    expect(page).toContain('href="../a%20campaign/evidence/run-');
  });

  it('goes by the ending of the file', async () => {
    const out = join(folder, 'report.md');
    await ninelives('report', campaign, '-o', out);
    expect(readFileSync(out, 'utf8')).toMatch(/^# Campaign/);
  });

  it('prints text and Markdown where no file is named', async () => {
    expect((await ninelives('report', campaign, '--format', 'text')).stdout).toMatch(/^Campaign .*\n=+\n/);
    expect((await ninelives('report', campaign, '--format', 'markdown')).stdout).toContain('| series |');
  });

  it('tells a program what it did', async () => {
    const out = join(folder, 'report.html');
    const { stdout } = await ninelives('report', campaign, campaign, '--out', out, '--json');
    expect(JSON.parse(stdout)).toEqual({ out, format: 'html', campaigns: 2, runs: 80 });
  });

  it.each([
    [['--format', 'pdf'], 'NL_USAGE'],
    [['--timelines', 'some'], 'NL_USAGE'],
  ])('refuses %j', async (options, code) => {
    const { status, stderr } = await ninelives('report', campaign, ...options);
    expect(status).toBe(2);
    expect(stderr).toContain(code);
  });

  it('refuses a folder that is no campaign, and writes nothing', async () => {
    const out = join(folder, 'never.html');
    const { status, stderr } = await ninelives('report', folder, '-o', out);
    expect(status).not.toBe(0);
    expect(stderr).toContain('NL_CAMPAIGN_INVALID');
    expect(() => readFileSync(out)).toThrow();
  });
});
