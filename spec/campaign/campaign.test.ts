/** Campaigns from beginning to end, with workers that answer at once instead of running a box. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { beginCampaign, type CampaignEvent, continueCampaign, type Overrides } from '../../src/campaign/campaign.js';
import { fileIn, lockIn, logIn, metaIn, readCampaign, runFolder, type Versions } from '../../src/campaign/folder.js';
import { lockFolder } from '../../src/campaign/lock.js';
import { mergeCampaigns } from '../../src/campaign/merge.js';
import { runName, withoutOf } from '../../src/campaign/plan.js';
import type { RunRecord } from '../../src/campaign/record.js';
import type { RunOrder } from '../../src/campaign/run-record.js';
import type { WorkerLink } from '../../src/campaign/spawn.js';
import { record } from './records.js';

const FILE = `name: test
runs: 6
fault: {type: failstop}
trigger: {type: timer}
`;
const VERSIONS: Versions = { ninelives: '0.1.0', xen: '4.17', qemu: '7.2', kernel: 'linux', snapshot: 'abc' };

let base: string;
let dir: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'ninelives-campaign-'));
  dir = join(base, 'c');
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

type Make = (order: RunOrder) => RunRecord;
const asPlanned: Make = (order) =>
  record(order.run, { planned: order.planned as RunRecord['planned'], ...variantOf(order) });
const variantOf = ({ variant }: RunOrder) => (variant === undefined ? {} : { variant });

function workers(make: Make, versions = VERSIONS): () => WorkerLink {
  return () => {
    const link: WorkerLink = {
      pid: 1,
      onMessage: () => {},
      onExit: () => {},
      kill: () => {},
      send: (message) =>
        void setImmediate(() => {
          if (message.kind === 'open') link.onMessage({ kind: 'ready', versions });
          if (message.kind === 'run') link.onMessage({ kind: 'done', record: make(message.order) });
          if (message.kind === 'end') link.onExit('it ended');
        }),
    };
    return link;
  };
}

const begin = (overrides: Overrides = {}, text = FILE, folder = dir): void =>
  beginCampaign(text, 'test.yaml', folder, overrides, 1);

interface Going {
  readonly make?: Make;
  readonly versions?: Versions;
  readonly accept?: 'any';
  readonly stopAfter?: number;
  readonly folder?: string;
}

async function go({ make = asPlanned, versions, accept, stopAfter, folder = dir }: Going = {}) {
  const controller = new AbortController();
  const events: CampaignEvent[] = [];
  let done = 0;
  const { ending, campaign } = await continueCampaign(
    folder,
    {
      jobs: 1,
      signal: controller.signal,
      spawn: workers(make, versions),
      told: (event) => {
        events.push(event);
        if (event.kind === 'record' && ++done === stopAfter) controller.abort();
      },
    },
    accept,
  );
  return { ending, campaign, events };
}

const runsIn = (folder = dir): string[] => readCampaign(folder).records.map(runName);

describe('a campaign', () => {
  it('makes its runs and keeps what it was run with', async () => {
    begin({ runs: 4, seed: 77 });
    const { ending, campaign } = await go();
    expect(ending).toBe('complete');
    expect(runsIn()).toEqual(['0', '1', '2', '3']);
    expect(campaign.meta).toMatchObject({ name: 'test', jobs: 1, versions: VERSIONS });
    expect(readFileSync(fileIn(dir), 'utf8')).toContain('seed: 77');
  });

  it('chooses the same for a run, whatever the number of runs', async () => {
    begin({ runs: 3 });
    await go();
    begin({ runs: 9 }, FILE, join(base, 'longer'));
    await go({ folder: join(base, 'longer') });
    const planned = (folder: string) => readCampaign(folder).records.map((one) => one.planned);
    expect(planned(join(base, 'longer')).slice(0, 3)).toEqual(planned(dir));
    expect(new Set(planned(dir).map((one) => JSON.stringify(one))).size).toBe(3);
  });

  it('refuses a folder in which something is, and points to resume where it is a campaign', () => {
    begin();
    expect(() => begin()).toThrow(
      expect.objectContaining({ code: 'NL_USAGE', fix: expect.stringContaining('resume') as string }) as Error,
    );
    mkdirSync(join(base, 'other/x'), { recursive: true });
    expect(() => begin({}, FILE, join(base, 'other'))).toThrow(
      expect.objectContaining({ code: 'NL_USAGE', fix: expect.stringContaining('--out') as string }) as Error,
    );
  });

  it('goes on after an interruption with the runs that it lacks', async () => {
    begin();
    expect((await go({ stopAfter: 2 })).ending).toBe('interrupted');
    expect(runsIn()).toEqual(['0', '1']);
    const made: number[] = [];
    const rest = await go({
      make: (order) => {
        made.push(order.run);
        return asPlanned(order);
      },
    });
    expect([rest.ending, made]).toEqual(['complete', [2, 3, 4, 5]]);
    expect((await go()).events).toEqual([]);
  });

  it('makes a run again in which we failed', async () => {
    begin();
    await go({
      make: (order) =>
        order.run === 3 ? record(3, { outcome: 'infra', errorCode: 'NL_QEMU_EXITED' }) : asPlanned(order),
    });
    expect(readCampaign(dir).records.find(({ run }) => run === 3)).toMatchObject({ outcome: 'infra' });
    await go();
    expect(readCampaign(dir).records.find(({ run }) => run === 3)).toMatchObject({ outcome: 'detected' });
    expect(runsIn()).toHaveLength(6);
  });

  it('makes a run again whose line in the log was torn or damaged', async () => {
    begin();
    await go();
    const text = readFileSync(logIn(dir), 'utf8').split('\n');
    text[1] = 'garbage';
    writeFileSync(logIn(dir), text.join('\n'));
    truncateSync(logIn(dir), readFileSync(logIn(dir)).length - 20);
    expect(readCampaign(dir).damage).toMatchObject([
      { line: 2, kind: 'damaged' },
      { line: 6, kind: 'torn' },
    ]);
    await go();
    expect(runsIn().toSorted((a, b) => Number(a) - Number(b))).toEqual(['0', '1', '2', '3', '4', '5']);
  });

  it('refuses to go on when its file plans other runs', async () => {
    begin();
    await go({ stopAfter: 1 });
    writeFileSync(fileIn(dir), readFileSync(fileIn(dir), 'utf8').replace('failstop', 'register'));
    await expect(go()).rejects.toMatchObject({ code: 'NL_CAMPAIGN_DIFFERS' });
  });

  it('refuses to mix versions unless told to', async () => {
    begin();
    await go({ stopAfter: 1 });
    const versions = { ...VERSIONS, xen: '4.18' };
    await expect(go({ versions })).rejects.toMatchObject({
      code: 'NL_CAMPAIGN_DIFFERS',
      message: expect.stringContaining('xen was 4.17 and is 4.18') as string,
    });
    expect((await go({ versions, accept: 'any' })).ending).toBe('complete');
  });

  it('notes a snapshot that was made anew', async () => {
    begin();
    await go({ stopAfter: 1 });
    const { campaign } = await go({ versions: { ...VERSIONS, snapshot: 'def' } });
    expect(campaign.meta).toMatchObject({ versions: { snapshot: 'abc' }, laterSnapshots: ['def'] });
  });

  it('is run by one process at a time', async () => {
    begin();
    using _ = lockFolder(lockIn(dir));
    await expect(go()).rejects.toMatchObject({
      code: 'NL_CAMPAIGN_BUSY',
      message: expect.stringContaining(`${process.pid}`) as string,
    });
  });

  it('is not held up by the lock file of a process that was killed', async () => {
    begin();
    writeFileSync(lockIn(dir), '1\n');
    expect((await go()).ending).toBe('complete');
  });

  it('makes each run once for each of its variants, with the same choices', async () => {
    begin(
      { runs: 2 },
      `${FILE}variants:\n  - {name: all, without: []}\n  - {name: no locks, without: [static-locks]}\n`,
    );
    await go();
    expect(runsIn()).toEqual(['0.0', '0.1', '1.0', '1.1']);
    const [a, b, c] = readCampaign(dir).records;
    expect(a!.planned).toEqual(b!.planned);
    expect(a!.planned).not.toEqual(c!.planned);
  });

  it('lets a variant add steps to the one before it', () => {
    const rows = ['{name: threads, adds: []}', '{name: locks, adds: [static-locks]}', '{name: all, without: []}'];
    begin({ runs: 1 }, `${FILE}variants:\n${rows.map((row) => `  - ${row}\n`).join('')}`);
    const { file } = readCampaign(dir);
    const left = rows.map((_, variant) => withoutOf(file, variant));
    expect([left[0]!.has('static-locks'), left[0]!.has('place-cpus'), left[0]!.has('timers')]).toEqual([
      true,
      false,
      true,
    ]);
    expect(left[1]).toEqual(new Set([...left[0]!].filter((step) => step !== 'static-locks')));
    expect(left[2]).toEqual(new Set());
  });

  it('removes the oldest evidence above its limit, says so, and keeps the records', async () => {
    begin({ runs: 4 }, `${FILE}evidence: {limit: 1M}\n`);
    const { events } = await go({
      make: (order) => {
        const folder = runFolder(order);
        mkdirSync(join(dir, folder), { recursive: true });
        writeFileSync(join(dir, folder, 'x.capsule'), Buffer.alloc(400_000));
        return record(order.run, { end: 'vms', evidence: [join(folder, 'x.capsule')] });
      },
    });
    expect(events.filter(({ kind }) => kind === 'pruned')).toEqual([
      { kind: 'pruned', folders: 1, bytes: 400_000 },
      { kind: 'pruned', folders: 1, bytes: 400_000 },
    ]);
    expect([0, 1, 2, 3].map((run) => existsSync(join(dir, runFolder({ run }))))).toEqual([false, false, true, true]);
    expect(runsIn()).toHaveLength(4);
  });
});

describe('a folder that is none of a campaign', () => {
  it('is refused', () => {
    expect(() => readCampaign(base)).toThrow(expect.objectContaining({ code: 'NL_CAMPAIGN_INVALID' }) as Error);
  });

  it('is refused when its meta.json cannot be read', () => {
    begin();
    writeFileSync(metaIn(dir), '{"format":');
    expect(() => readCampaign(dir)).toThrow(expect.objectContaining({ code: 'NL_CAMPAIGN_INVALID' }) as Error);
  });
});

describe('parts of a campaign', () => {
  const part = (index: number): string => join(base, `part-${index}`);
  const make = async (index: number, overrides: Overrides = {}) => {
    begin({ shard: { index, count: 3 }, ...overrides }, FILE, part(index));
    await go({ folder: part(index) });
  };

  it('have every third run each, and make the whole when merged', async () => {
    for (const index of [1, 2, 3]) await make(index);
    expect([1, 2, 3].map((index) => runsIn(part(index)))).toEqual([
      ['0', '3'],
      ['1', '4'],
      ['2', '5'],
    ]);
    const whole = mergeCampaigns([part(2), part(1), part(3)], dir);
    expect(whole.records.map(runName)).toEqual(['0', '1', '2', '3', '4', '5']);
    expect(whole.meta.shard).toBeUndefined();
    expect((await go()).ending).toBe('complete');
  });

  it('bring their evidence, but for what was pruned', async () => {
    await make(1);
    const evidence = ['evidence/run-000000/end.txt', 'evidence/run-000000/gone.txt'];
    mkdirSync(join(part(1), 'evidence/run-000000'), { recursive: true });
    writeFileSync(join(part(1), evidence[0]!), 'the end');
    appendFileSync(logIn(part(1)), `${JSON.stringify(record(0, { evidence }))}\n`);
    mergeCampaigns([part(1)], dir);
    expect(readFileSync(join(dir, evidence[0]!), 'utf8')).toBe('the end');
  });

  it('are refused when they plan other runs, or have a run in common', async () => {
    await make(1);
    await make(2, { seed: 5 });
    expect(() => mergeCampaigns([part(1), part(2)], dir)).toThrow(
      expect.objectContaining({ code: 'NL_CAMPAIGN_DIFFERS' }) as Error,
    );
    expect(() => mergeCampaigns([part(1), part(1)], dir)).toThrow(
      expect.objectContaining({ code: 'NL_USAGE' }) as Error,
    );
    expect(existsSync(dir)).toBe(false);
  });
});
