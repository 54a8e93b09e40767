/** Parts of a campaign that were run in different places, as one. */
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { NinelivesError } from '../common/errors.js';
import { type Campaign, createFolder, logIn, readCampaign } from './folder.js';
import { RunLog } from './log.js';
import { runName } from './plan.js';
import type { RunRecord } from './record.js';

/**
 * Makes a folder with the runs and the evidence of all others. Runs that none of them has can be made with `campaign resume`.
 * @throws NL_CAMPAIGN_DIFFERS when they are not parts of one campaign; NL_USAGE for a run that two of them have; NL_NO_SPACE
 */
export function mergeCampaigns(dirs: readonly string[], out: string): Campaign {
  const parts = dirs.map((dir) => readCampaign(dir));
  const [first] = parts;
  if (first === undefined) throw new NinelivesError('NL_USAGE', 'no campaign to merge', { fix: 'give their folders' });
  requireSameCampaign(first, parts);
  const merged = mergeRecords(parts);
  const snapshots = parts.flatMap(({ meta }) => [meta.versions?.snapshot ?? [], meta.laterSnapshots].flat());
  const { shard: _, ...meta } = first.meta;
  createFolder(out, first.text, {
    ...meta,
    laterSnapshots: [...new Set(snapshots)].filter((snapshot) => snapshot !== meta.versions?.snapshot),
    mergedFrom: dirs.map((dir) => resolve(dir)),
  });
  using log = RunLog.open(logIn(out));
  for (const { record, from } of merged) {
    for (const path of record.evidence) copyIfThere(join(from, path), join(out, path));
    log.append(record);
  }
  return readCampaign(out);
}

function requireSameCampaign(first: Campaign, parts: readonly Campaign[]): void {
  for (const { dir, meta } of parts) {
    if (meta.planDigest !== first.meta.planDigest) {
      throw new NinelivesError('NL_CAMPAIGN_DIFFERS', `${dir} plans other runs than ${first.dir}`, {
        fix: 'merge only parts of one campaign: the same file, runs and seed, each with another --shard; compare others with "ninelives campaign compare"',
      });
    }
    for (const key of ['ninelives', 'xen', 'qemu', 'kernel'] as const) {
      const [a, b] = [first.meta.versions?.[key], meta.versions?.[key]];
      if (a !== undefined && b !== undefined && a !== b) {
        throw new NinelivesError('NL_CAMPAIGN_DIFFERS', `${dir} was run with ${key} ${b}, and ${first.dir} with ${a}`, {
          fix: 'run all parts with the same versions',
        });
      }
    }
  }
}

interface Merged {
  readonly record: RunRecord;
  /** Folder of the campaign that it is of. */
  readonly from: string;
}

/** In the order of the runs. A result goes before a run in which we failed. */
function mergeRecords(parts: readonly Campaign[]): Merged[] {
  const all = new Map<string, Merged>();
  for (const { dir, records } of parts) {
    for (const record of records) {
      const name = runName(record);
      const other = all.get(name);
      if (other !== undefined && other.record.outcome !== 'infra' && record.outcome !== 'infra') {
        throw new NinelivesError('NL_USAGE', `both ${other.from} and ${dir} have run ${name}`, {
          fix: 'merge parts that have no run in common: each with another --shard',
        });
      }
      if (other === undefined || other.record.outcome === 'infra') all.set(name, { record, from: dir });
    }
  }
  const order = ({ record: { run, variant = 0 } }: Merged): number => run * 1000 + variant;
  return [...all.values()].sort((a, b) => order(a) - order(b));
}

/** Evidence that was pruned is not there any more. */
function copyIfThere(from: string, to: string): void {
  if (!existsSync(from)) return;
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to);
}
