/** One run of a campaign on a box that is used for many: back to the snapshot, the trial, the record. */
import { cpSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Target } from '../guard/target.js';
import type { Box } from '../testbed/box.js';
import type { ChainOracle } from '../workload/chain.js';
import type { CampaignFile } from './file.js';
import { runFolder } from './folder.js';
import { MECHANISMS } from './mechanisms.js';
import { runName, withoutOf } from './plan.js';
import { plannedSchema, type RunRecord } from './record.js';
import type { RunOrder } from './run-record.js';
import { Stopwatch } from './stopwatch.js';
import { runTrial, type Trial } from './trial.js';

/** What a worker has for all of its runs. */
export interface Bench {
  readonly box: Box;
  readonly target: Target;
  readonly oracle: ChainOracle;
  readonly file: CampaignFile;
  /** The campaign's folder. */
  readonly dir: string;
  readonly signal: AbortSignal;
  readonly told?: (text: string) => void;
  /** Called with what is not as it should be and does not change the result. */
  readonly warn?: (text: string) => void;
}

/** @throws what goes wrong on our side; the box is then in no state to be used again without a restore */
export async function runOnce(
  bench: Bench,
  order: RunOrder,
  warm: boolean,
): Promise<{ record: RunRecord; trial: Trial }> {
  const { box, target, oracle, file, dir, signal, told = () => {} } = bench;
  const startedAt = new Date().toISOString();
  const begin = performance.now();
  const watch = new Stopwatch();
  told('restoring the box');
  // Until the fault is made not one instruction is to depend on the host.
  await box.restore(file.box.clock === 'instructions' ? 'frozen' : 'running');
  signal.throwIfAborted();
  watch.lap('restore');
  const keeps = file.evidence.keep !== 'none';
  // Beside the box first: what is not kept, of most runs, never gets to the campaign's disk.
  const draft = join(box.runtimeDir, 'evidence');
  rmSync(draft, { recursive: true, force: true });
  if (keeps) mkdirSync(draft, { recursive: true });
  const trial = await runTrial(box, target, {
    ...(file.golden ? {} : { planned: order.planned }),
    oracle,
    signal,
    told,
    warm,
    limits: file.observe,
    mechanism: MECHANISMS[file.mechanism.name],
    without: withoutOf(file, order.variant),
    commitUnchecked: file.mechanism.commitUnchecked,
    text: file.guard.text,
    note: `campaign ${file.name}, run ${runName(order)}`,
    ...(keeps ? { evidenceDir: draft } : {}),
  });
  watch.add(trial.spentMs);
  const folder = runFolder(order);
  rmSync(join(dir, folder), { recursive: true, force: true });
  const evidence = keeps && isWorthKeeping(trial, file) ? keepIn(dir, folder, draft, bench.warn) : [];
  rmSync(draft, { recursive: true, force: true });
  const kept = withCapsulesIn(join(dir, folder), trial, evidence);
  const record = recordOf({ bench, order, trial, startedAt, evidence, spentMs: watch.spentMs, begin });
  return { record, trial: kept };
}

/** The trial with its capsules where they were moved to; without those that were not kept. */
function withCapsulesIn(folder: string, trial: Trial, evidence: readonly string[]): Trial {
  const recoveries = trial.recoveries.map(({ capsule, ...recovery }) => {
    const name = capsule === undefined ? undefined : basename(capsule);
    const isKept = name !== undefined && evidence.some((path) => basename(path) === name);
    return isKept ? { ...recovery, capsule: join(folder, name) } : recovery;
  });
  return { ...trial, recoveries };
}

/** Of a hypervisor that fails again and again the first failures are worth looking at, and not the hundredth. */
const CAPSULES = 4;

/** A run counts also where its evidence cannot be kept. */
function keepIn(dir: string, folder: string, draft: string, warn: Bench['warn']): string[] {
  try {
    const names = readdirSync(draft).sort();
    for (const name of names.filter((one) => one.endsWith('.capsule')).slice(CAPSULES)) rmSync(join(draft, name));
    cpSync(draft, join(dir, folder), { recursive: true });
    return readdirSync(draft).map((name) => join(folder, name));
  } catch (error) {
    rmSync(join(dir, folder), { recursive: true, force: true });
    warn?.(`the evidence in ${folder} could not be kept: ${error instanceof Error ? error.message : String(error)}`);
    return [];
  }
}

function isWorthKeeping(trial: Trial, file: CampaignFile): boolean {
  if (file.evidence.keep === 'all') return trial.outcome !== 'not-reached';
  return trial.cause !== undefined && trial.outcome !== 'not-reached';
}

interface Done {
  readonly bench: Bench;
  readonly order: RunOrder;
  readonly trial: Trial;
  readonly startedAt: string;
  readonly evidence: readonly string[];
  readonly spentMs: Readonly<Record<string, number>>;
  readonly begin: number;
}

function recordOf({ bench, order, trial, startedAt, evidence, spentMs, begin }: Done): RunRecord {
  const { point, failures, recoveries, newVm, verdict } = trial;
  const [recovery] = recoveries;
  const isDetected = trial.outcome === 'detected';
  const works = new Map(bench.box.spec.guests.map(({ name, work }) => [name, work as string]));
  return {
    run: order.run,
    ...(order.variant === undefined ? {} : { variant: order.variant }),
    startedAt,
    tookMs: Math.round(performance.now() - begin),
    planned: plannedSchema.parse(order.planned),
    outcome: trial.outcome,
    ...(trial.end === undefined ? {} : { end: trial.end }),
    ...(point === undefined
      ? {}
      : { point: { ...point, backtrace: [...point.backtrace], what: trial.what ?? 'something was broken' } }),
    failures: failures.map(({ kind, cpu, at, summary, detectedAtMs }) => ({
      kind,
      ...(cpu === undefined ? {} : { cpu }),
      ...(at === undefined ? {} : { at }),
      summary,
      afterMs: thousandths(detectedAtMs - trial.brokenAtMs),
    })),
    ...(recovery?.result === 'resumed'
      ? { latencyMs: thousandths(recovery.latencyMs), phases: phasesOf(recovery.phases) }
      : {}),
    ...(isDetected && trial.detectionMs !== undefined ? { detectionMs: thousandths(trial.detectionMs) } : {}),
    ...(isDetected && trial.outageMs !== undefined ? { outageMs: thousandths(trial.outageMs) } : {}),
    ...(isDetected && trial.outsideOutageMs !== undefined
      ? { outsideOutageMs: thousandths(trial.outsideOutageMs) }
      : {}),
    vms: verdict.vms.map(({ name, kind, alive, intact, reason }) => ({
      name,
      kind,
      work: works.get(name) ?? DOM0_WORK,
      alive,
      intact,
      ...(reason === undefined ? {} : { reason }),
    })),
    ...(newVm === undefined
      ? {}
      : { newVm: newVm.kind === 'created' ? { ok: true } : { ok: false, reason: newVm.reason } }),
    ...(trial.cause === undefined ? {} : { cause: trial.cause }),
    evidence: [...evidence],
    hostWaited: thousandths(trial.hostWaited),
    spentMs: { ...spentMs },
  };
}

/** dom0's own work is a sign of life only. */
const DOM0_WORK = 'files';

const thousandths = (ms: number): number => Math.round(ms * 1000) / 1000;

const phasesOf = (phases: object): Record<string, number> =>
  Object.fromEntries(Object.entries(phases as Record<string, number>).map(([name, ms]) => [name, thousandths(ms)]));
