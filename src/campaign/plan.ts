/** The plan of a campaign: what each run does, known before the first one starts. Pure. */
import { createHash } from 'node:crypto';
import { NinelivesError } from '../common/errors.js';
import { Random } from '../common/random.js';
import { type Planned, planInjection } from '../inject/index.js';
import type { CampaignFile } from './file.js';
import { stepsOf } from './mechanisms.js';

/** Discards the threads; nothing is a recovery without it. */
const INDISPENSABLE = 'place-cpus';

/** Which run of a campaign. `variant` only where the campaign has variants. */
export interface RunId {
  readonly run: number;
  readonly variant?: number | undefined;
}

/** A part of a campaign that is run elsewhere: `index` of `count`, from 1. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

/** `12`, or `12.3` for the variant with index 3. */
export const runName = ({ run, variant }: RunId): string => (variant === undefined ? `${run}` : `${run}.${variant}`);

export const NO_INJECTION: Planned = { fault: 'none', faultChoice: {}, trigger: 'none', triggerChoice: {} };

/** All choices of one run. They depend on the seed and the run's number only: not on the number of runs, nor on the variant. */
export function planRun(file: CampaignFile, run: number): Planned {
  const { fault, trigger, seed } = file;
  if (fault === undefined || trigger === undefined) return NO_INJECTION;
  return planInjection(Random.forPart(seed, run), fault, trigger);
}

/** Runs in the order in which they are started. All variants of a run follow each other, so that a campaign that is stopped compares. */
export function runsOf(file: CampaignFile, shard: Shard = { index: 1, count: 1 }): RunId[] {
  const runs = Array.from({ length: file.runs }, (_, run) => run).filter(
    (run) => run % shard.count === shard.index - 1,
  );
  const { variants } = file;
  return variants === undefined
    ? runs.map((run) => ({ run }))
    : runs.flatMap((run) => variants.map((_, variant) => ({ run, variant })));
}

/** Steps that a run leaves out: those of its mechanism and of its variant. */
export function withoutOf(file: CampaignFile, variant: number | undefined): ReadonlySet<string> {
  return new Set([...file.mechanism.without, ...leftOutBy(file, variant)]);
}

function leftOutBy({ variants = [], mechanism }: CampaignFile, index: number | undefined): readonly string[] {
  const variant = index === undefined ? undefined : variants[index];
  if (index === undefined || variant === undefined) return [];
  if (variant.adds === undefined) return variant.without ?? [];
  const begin = variants.findLastIndex(({ adds }, n) => n < index && adds === undefined) + 1;
  const kept = new Set(variants.slice(begin, index + 1).flatMap(({ adds = [] }) => adds));
  return stepsOf(mechanism.name).filter((step) => !kept.has(step) && step !== INDISPENSABLE);
}

/** A digest of all that makes runs comparable: the choices of each, the box, the mechanism, the limits. Not the evidence kept. */
export function planDigest(file: CampaignFile): string {
  const { name: _, description: __, evidence: ___, ...rest } = file;
  // A campaign that was begun before there was a choice of clocks goes on.
  const box = rest.box.clock === 'host' ? { ...rest.box, clock: undefined } : rest.box;
  const hash = createHash('sha256').update(JSON.stringify({ ...rest, box }));
  for (let run = 0; run < file.runs; run++) hash.update(JSON.stringify(planRun(file, run)));
  return hash.digest('hex');
}

/** The runs of `wanted` that a list of records lacks; a run in which we failed is lacking. */
export function lackingRuns(
  wanted: readonly RunId[],
  done: readonly (RunId & { readonly outcome: string })[],
): RunId[] {
  const finished = new Set(done.filter(({ outcome }) => outcome !== 'infra').map(runName));
  return wanted.filter((id) => !finished.has(runName(id)));
}

/** `2/5` as a shard. @throws NL_USAGE */
export function parseShard(text: string): Shard {
  const [, index = '', count = ''] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  const shard = { index: Number(index), count: Number(count) };
  if (shard.count >= 1 && shard.index >= 1 && shard.index <= shard.count) return shard;
  throw new NinelivesError('NL_USAGE', `--shard is "${text}"`, {
    fix: 'give which part of how many, from 1, as in --shard 2/5',
  });
}

/** The reverse of `runName`; `undefined` for anything else. */
export function parseRunName(text: string): RunId | undefined {
  const [, run, variant] = /^(\d+)(?:\.(\d+))?$/.exec(text) ?? [];
  if (run === undefined) return undefined;
  return variant === undefined ? { run: Number(run) } : { run: Number(run), variant: Number(variant) };
}
