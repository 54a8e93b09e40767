/** The campaign commands that need no box, on folders made here. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { beginCampaign } from '../../src/campaign/campaign.js';
import { RunLog } from '../../src/campaign/log.js';
import type { RunRecord } from '../../src/campaign/record.js';
import { quiet, record } from '../campaign/records.js';
import { ninelives } from './ninelives.js';

const FILE = `name: test
runs: 6
seed: 9
fault: {type: register}
trigger: {type: timer}
`;
const RECORDS = [
  record(0),
  record(1, {
    end: 'vms',
    cause: 'app1: it stands at step 7; app2: it stands at step 3',
    evidence: ['evidence/run-000001/end.txt'],
  }),
  quiet(2),
  record(3, { outcome: 'infra', end: undefined, cause: 'QEMU has ended', errorCode: 'NL_QEMU_EXITED' }),
];

let base: string;
let dir: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'ninelives-cli-campaign-'));
  dir = make('a', RECORDS);
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

function make(name: string, records: readonly RunRecord[]): string {
  const folder = join(base, name);
  beginCampaign(FILE, 'test.yaml', folder, {}, 1);
  using log = RunLog.open(join(folder, 'runs.ndjson'));
  for (const one of records) log.append(one);
  return folder;
}

const json = async (...argv: string[]): Promise<Record<string, unknown>> =>
  JSON.parse((await ninelives(...argv, '--json')).stdout) as Record<string, unknown>;

describe('campaign status', () => {
  it('has the documented fields', async () => {
    expect(await json('campaign', 'status', dir)).toMatchObject({
      name: 'test',
      seed: 9,
      planned: 6,
      done: 4,
      runs: 3,
      notManifested: 1,
      sdc: 0,
      detected: 2,
      success: 1,
      noVmf: 1,
      infraErrors: 1,
      latencyMs: { count: 2, p50: 10.5, p95: 10.95, p99: 10.99, max: 11 },
      outageMs: { p50: null },
      rates: {
        success: { count: 1, of: 2, share: 0.5, interval: [expect.closeTo(0.0126, 4), expect.closeTo(0.9874, 4)] },
      },
    });
  });

  it('is readable, and tells of damage in the run log', async () => {
    writeFileSync(join(dir, 'runs.ndjson'), '{"run":', { flag: 'a' });
    const { status, stdout } = await ninelives('campaign', 'status', dir);
    expect(status).toBe(0);
    expect(stdout).toContain('test  4 of 6 runs, seed 9');
    expect(stdout).toMatch(/success +1\/2 = 50\.0 % +1\.3 % – 98\.7 %/);
    expect(stdout).toContain('1 run without a result: we failed');
    expect(stdout).toContain('line 5 of the run log is torn and does not count');
  });

  it('refuses what is no campaign', async () => {
    expect((await ninelives('campaign', 'status', base)).status).toBe(2);
  });
});

describe('campaign show', () => {
  it('lists what did not go well', async () => {
    const { stdout } = await ninelives('campaign', 'show', dir);
    expect(stdout).toMatch(/✗ +1 +vms/);
    expect(stdout).toContain('app1: it stands at step 7');
    expect(stdout).toContain('NL_QEMU_EXITED: QEMU has ended');
    expect(stdout).not.toMatch(/^. +2 /m);
  });

  it('tells everything about one run', async () => {
    const { stdout } = await ninelives('campaign', 'show', dir, '1');
    expect(stdout).toContain('failstop');
    expect(stdout).toContain('delayMs=88');
    expect(stdout).toContain(`${dir}/evidence/run-000001/end.txt`);
    expect(await json('campaign', 'show', dir, '1')).toEqual(RECORDS[1]);
  });

  it('says which runs there are when there is no such one', async () => {
    for (const name of ['5', 'x', '1.0']) {
      const { status, stderr } = await ninelives('campaign', 'show', dir, name);
      expect(status).toBe(2);
      expect(stderr).toContain('from 0 to 5');
    }
  });
});

describe('campaign compare', () => {
  it('shows both rates, their difference, its interval and p-value', async () => {
    const other = make(
      'b',
      [0, 1, 2, 3].map((n) => record(n)),
    );
    const { status, stdout } = await ninelives('campaign', 'compare', dir, other);
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /success +1\/2 = 50\.0 % +4\/4 = 100\.0 % +\+50\.0 points +[−+]\d+\.\d to \+\d+\.\d +0\.3333/,
    );
  });
});

describe('campaign export', () => {
  it('writes what was asked for, one format at a time', async () => {
    const csv = join(base, 'runs.csv');
    expect((await ninelives('campaign', 'export', dir, '--csv', '--out', csv)).status).toBe(0);
    expect(readFileSync(csv, 'utf8').trimEnd().split('\r\n')).toHaveLength(5);
    expect(JSON.parse((await ninelives('campaign', 'export', dir, '--json')).stdout)).toEqual(RECORDS);
    expect((await ninelives('campaign', 'export', dir)).status).toBe(2);
    expect((await ninelives('campaign', 'export', dir, '--csv', '--sqlite', csv)).status).toBe(2);
  });
});

describe('campaign merge', () => {
  it('takes any number of folders, and a folder for the whole', async () => {
    expect((await ninelives('campaign', 'merge', dir, '--out', join(base, 'whole'))).status).toBe(0);
    expect(await json('campaign', 'status', join(base, 'whole'))).toMatchObject({ done: 4 });
    expect((await ninelives('campaign', 'merge', dir)).stderr).toContain('--out is missing');
  });
});

describe('campaign run', () => {
  it('refuses a file with a mistake before anything is touched', async () => {
    const file = join(base, 'bad.yaml');
    writeFileSync(file, FILE.replace('register', 'regster'));
    const { status, stderr } = await ninelives('campaign', 'run', file, '--out', join(base, 'out'));
    expect(status).toBe(2);
    expect(stderr).toContain(`${file}:4:15: fault.type must be one of`);
    expect(stderr).toContain('did you mean "register"?');
    await expect(json('campaign', 'status', join(base, 'out'))).resolves.toMatchObject({
      error: { code: 'NL_CAMPAIGN_INVALID' },
    });
  });

  it.each([
    ['--shard', '3/2'],
    ['--jobs', '0'],
    ['--runs', '0'],
    ['--seed', '-1'],
  ])('refuses %s %s', async (option, value) => {
    const file = join(base, 'good.yaml');
    writeFileSync(file, FILE);
    expect((await ninelives('campaign', 'run', file, `${option}=${value}`)).status).toBe(2);
  });
});
