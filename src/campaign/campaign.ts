/** A campaign from its beginning, or from where it was left, to its end. */
import { cpus, totalmem } from 'node:os';
import { basename } from 'node:path';
import { NinelivesError } from '../common/errors.js';
import type { CampaignFile } from './file.js';
import {
  type Campaign,
  createFolder,
  evidenceIn,
  lockIn,
  logIn,
  type Meta,
  readCampaign,
  runFolder,
  type Versions,
  writeMeta,
} from './folder.js';
import { lockFolder } from './lock.js';
import { RunLog } from './log.js';
import { lackingRuns, planDigest, planRun, type Shard } from './plan.js';
import { EvidenceStore, type Pruned } from './prune.js';
import { readCampaignFile, withValues } from './read-file.js';
import { forkWorker, type SpawnWorker } from './spawn.js';
import { type Ending, type SupervisorEvent, supervise } from './supervisor.js';

export type CampaignEvent = SupervisorEvent | ({ readonly kind: 'pruned' } & Pruned);

export interface CampaignRunOptions {
  readonly jobs: number;
  readonly signal: AbortSignal;
  readonly told: (event: CampaignEvent) => void;
  /** Default: child processes. */
  readonly spawn?: SpawnWorker;
}

/** What the command line says over the campaign file. */
export interface Overrides {
  readonly runs?: number;
  readonly seed?: number;
  readonly shard?: Shard;
}

/**
 * The folder of a new campaign, with nothing done yet.
 * @param text of the campaign file
 * @param path of it, for messages
 * @throws NL_CAMPAIGN_INVALID, NL_USAGE when the folder is not empty
 */
export function beginCampaign(text: string, path: string, dir: string, overrides: Overrides, jobs: number): void {
  const file = readCampaignFile(text, path);
  const values = { runs: overrides.runs ?? file.runs, seed: overrides.seed ?? file.seed };
  const asRun = withValues(text, values);
  const meta: Meta = {
    format: 1,
    name: file.name,
    createdAt: new Date().toISOString(),
    planDigest: planDigest(readCampaignFile(asRun, path)),
    ...(overrides.shard === undefined ? {} : { shard: { ...overrides.shard } }),
    jobs,
    host: { cores: cpus().length, memoryMiB: Math.round(totalmem() / 2 ** 20), model: cpus()[0]?.model ?? 'unknown' },
    laterSnapshots: [],
  };
  createFolder(dir, asRun, meta);
}

/**
 * Makes all runs that a campaign's folder lacks; those in which we failed are made again.
 * @param versions `same`: of ninelives, Xen, QEMU and Linux, as in the runs that are there
 * @throws NL_CAMPAIGN_BUSY, NL_CAMPAIGN_DIFFERS, NL_NO_SPACE, NL_RUNS_LOST, and whatever the box cannot be opened for
 */
export async function continueCampaign(
  dir: string,
  options: CampaignRunOptions,
  versions: 'same' | 'any' = 'same',
): Promise<{ ending: Ending; campaign: Campaign }> {
  const campaign = readCampaign(dir);
  using _lock = lockFolder(lockIn(dir));
  requireSamePlan(campaign.file, campaign.meta);
  const store = new EvidenceStore(evidenceIn(dir), campaign.file.evidence.limit * 2 ** 20);
  using log = RunLog.open(logIn(dir));
  const { signal, told, jobs, spawn = forkWorker } = options;
  const orders = lackingRuns(campaign.planned, campaign.records).map((id) => ({
    ...id,
    planned: planRun(campaign.file, id.run),
  }));
  const ending = await supervise({
    dir,
    orders,
    jobs,
    signal,
    spawn,
    told,
    checkVersions: (found) => noteVersions(dir, found, versions),
    keep: (record) => {
      log.append(record);
      if (record.evidence.length === 0) return;
      const pruned = store.add(basename(runFolder(record)));
      if (pruned.folders > 0) told({ kind: 'pruned', ...pruned });
    },
  });
  return { ending, campaign: readCampaign(dir) };
}

/** @throws NL_CAMPAIGN_DIFFERS */
function requireSamePlan(file: CampaignFile, meta: Meta): void {
  if (planDigest(file) === meta.planDigest) return;
  throw new NinelivesError('NL_CAMPAIGN_DIFFERS', 'campaign.yaml plans other runs than those that were begun', {
    fix: 'undo what was changed in it, or begin a new campaign with it: ninelives campaign run FILE --out DIR',
  });
}

/** @throws NL_CAMPAIGN_DIFFERS */
function noteVersions(dir: string, found: Versions, wanted: 'same' | 'any'): void {
  const { meta, records } = readCampaign(dir);
  const known = meta.versions;
  if (known === undefined || records.length === 0) {
    writeMeta(dir, { ...meta, versions: found });
    return;
  }
  const keys = ['ninelives', 'xen', 'qemu', 'kernel'] as const;
  const differences = keys.filter((key) => known[key] !== found[key]);
  if (differences.length > 0 && wanted === 'same') {
    const told = differences.map((key) => `${key} was ${known[key]} and is ${found[key]}`);
    throw new NinelivesError('NL_CAMPAIGN_DIFFERS', `this campaign was begun with other versions: ${told.join('; ')}`, {
      fix: 'begin a new one, or mix them all the same: ninelives campaign resume --accept-other-versions',
    });
  }
  const snapshots = [known.snapshot, ...meta.laterSnapshots];
  if (!snapshots.includes(found.snapshot)) {
    writeMeta(dir, { ...meta, laterSnapshots: [...meta.laterSnapshots, found.snapshot] });
  }
}
