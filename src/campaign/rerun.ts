/** One run of a campaign once more, in this process: from the same snapshot, with the same choices. */
import { mkdirSync } from 'node:fs';
import type { Progress } from '../common/progress.js';
import { findTarget } from '../guard/target.js';
import { type Box, openBox } from '../testbed/box.js';
import { ChainOracle } from '../workload/chain.js';
import type { Campaign } from './folder.js';
import { planRun, type RunId } from './plan.js';
import type { RunRecord } from './record.js';
import { runOnce } from './run.js';
import { boxSpecOf } from './setup.js';
import type { Trial } from './trial.js';

export interface Rerun {
  readonly record: RunRecord;
  readonly trial: Trial;
  readonly box: Box;
}

export interface RerunOptions {
  /** Folder for its evidence, which is kept whatever comes of it. Not that of the campaign: a campaign's records stay as they are. */
  readonly out: string;
  readonly signal: AbortSignal;
  readonly progress: Progress;
}

/** @param use is given the result while the box is still there */
export async function rerun<T>(
  { file }: Campaign,
  id: RunId,
  { out, signal, progress }: RerunOptions,
  use: (result: Rerun) => T,
): Promise<T> {
  mkdirSync(out, { recursive: true });
  const opening = openBox(boxSpecOf(file), progress, { signal });
  await using box = await opening;
  progress.step('finding Xen');
  await box.machine.freeze();
  const target = await findTarget(box.machine);
  progress.step('breaking and recovering');
  const bench = {
    box,
    target,
    oracle: new ChainOracle(),
    file: { ...file, evidence: { ...file.evidence, keep: 'all' as const } },
    dir: out,
    signal,
    told: (text: string) => progress.detail(text),
  };
  const { record, trial } = await runOnce(bench, { ...id, planned: planRun(file, id.run) }, false);
  return use({ record, trial, box });
}
