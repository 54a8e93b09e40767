/**
 * The folder of a campaign: `campaign.yaml` (the file as it is run), `meta.json` (what it is run with), `runs.ndjson` (the run log),
 * `evidence/run-000123/` (what is kept of single runs), `lock`.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import type { CampaignFile } from './file.js';
import { type Damage, parseLog } from './log.js';
import { type RunId, runsOf } from './plan.js';
import { readCampaignFile } from './read-file.js';
import type { RunRecord } from './record.js';

const versionsSchema = z.object({
  ninelives: z.string(),
  xen: z.string(),
  qemu: z.string(),
  kernel: z.string(),
  /** Identifies the saved state of the box that every run begins from. */
  snapshot: z.string(),
});
/** What a campaign is run with. */
export type Versions = z.infer<typeof versionsSchema>;

const shardSchema = z.object({ index: z.int().min(1), count: z.int().min(1) });

export const metaSchema = z.object({
  format: z.literal(1),
  name: z.string(),
  /** ISO 8601. */
  createdAt: z.string(),
  /** Of everything that makes runs comparable; see `plan.ts`. */
  planDigest: z.string(),
  /** Absent: the whole campaign. */
  shard: shardSchema.optional(),
  jobs: z.int().min(1),
  host: z.object({ cores: z.int(), memoryMiB: z.int(), model: z.string() }),
  /** Absent until the first box is up. */
  versions: versionsSchema.optional(),
  /** Snapshots of later sessions, where the first one's was not there any more and the box was booted again. */
  laterSnapshots: z.array(z.string()).default([]),
  /** Of a merged campaign: where its parts were. */
  mergedFrom: z.array(z.string()).optional(),
});
export type Meta = z.infer<typeof metaSchema>;

/** All that is in a campaign's folder, but for its evidence. */
export interface Campaign {
  readonly dir: string;
  readonly file: CampaignFile;
  /** `campaign.yaml` as it is. */
  readonly text: string;
  readonly meta: Meta;
  /** In the order in which they were done; of a run that was done again the last one. */
  readonly records: readonly RunRecord[];
  /** Pieces of the run log that cannot be used. */
  readonly damage: readonly Damage[];
  /** All runs that this folder is for. */
  readonly planned: readonly RunId[];
}

export const fileIn = (dir: string): string => join(dir, 'campaign.yaml');
export const metaIn = (dir: string): string => join(dir, 'meta.json');
export const logIn = (dir: string): string => join(dir, 'runs.ndjson');
export const lockIn = (dir: string): string => join(dir, 'lock');
export const evidenceIn = (dir: string): string => join(dir, 'evidence');

/** Folder of one run's evidence, relative to the campaign's: `evidence/run-000123`, with `-v2` for a variant. */
export const runFolder = ({ run, variant }: RunId): string =>
  join('evidence', `run-${String(run).padStart(6, '0')}${variant === undefined ? '' : `-v${variant}`}`);

/**
 * Reads a campaign, running or not. A damaged run log is no error: what can be read of it counts.
 * @throws NL_CAMPAIGN_INVALID
 */
export function readCampaign(dir: string): Campaign {
  if (!existsSync(fileIn(dir)) || !existsSync(metaIn(dir))) {
    throw new NinelivesError('NL_CAMPAIGN_INVALID', `${dir} is not the folder of a campaign`, {
      fix: 'give the folder that "ninelives campaign run" made',
    });
  }
  const text = readFileSync(fileIn(dir), 'utf8');
  const file = readCampaignFile(text, fileIn(dir));
  const meta = readMeta(dir);
  const log = existsSync(logIn(dir)) ? parseLog(readFileSync(logIn(dir))) : { records: [], damage: [] };
  return { dir, file, text, meta, records: log.records, damage: log.damage, planned: runsOf(file, meta.shard) };
}

function readMeta(dir: string): Meta {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(metaIn(dir), 'utf8'));
  } catch (error) {
    value = error;
  }
  const parsed = metaSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new NinelivesError('NL_CAMPAIGN_INVALID', `${metaIn(dir)} cannot be read: ${z.prettifyError(parsed.error)}`, {
    fix: 'the run log is still good; copy meta.json from a campaign of the same file and versions',
  });
}

/** The file appears complete or not at all. */
export function writeMeta(dir: string, meta: Meta): void {
  const draft = `${metaIn(dir)}.${process.pid}.tmp`;
  writeFileSync(draft, `${JSON.stringify(meta, null, 2)}\n`);
  renameSync(draft, metaIn(dir));
}

/** @throws NL_USAGE when something is there already */
export function createFolder(dir: string, text: string, meta: Meta): void {
  if (existsSync(dir) && readdirSync(dir).length > 0) {
    const isOurs = existsSync(metaIn(dir));
    throw new NinelivesError('NL_USAGE', `${dir} is not empty`, {
      fix: isOurs
        ? `go on with the campaign in it: ninelives campaign resume ${dir}`
        : 'give another folder with --out',
    });
  }
  mkdirSync(dir, { recursive: true });
  writeFileSync(fileIn(dir), text);
  writeMeta(dir, meta);
}
