/** `ninelives demo`: break a real Xen under running VMs, and bring it back. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { runTrial } from '../../campaign/trial.js';
import { EXIT, NinelivesError } from '../../common/errors.js';
import { Random } from '../../common/random.js';
import { findTarget, type Target } from '../../guard/target.js';
import { planInjection, type TriggerSpec } from '../../inject/index.js';
import { count, duration } from '../../report/style.js';
import { tallyLines, tallyOf } from '../../report/tally.js';
import { timeline } from '../../report/timeline.js';
import { type Box, openBox } from '../../testbed/box.js';
import { ChainOracle } from '../../workload/chain.js';
import { NEW_BOX_OPTIONS, newBoxSpec } from '../box.js';
import { claimBox, forgetBox, recordBox } from '../boxes.js';
import type { Command, Context } from '../command.js';
import { parseRuns, parseSeed } from '../options.js';
import { demoObject, type InjectedTrial, isInjected, runResult, storyOf, tallyObject } from '../trial-report.js';
import { reachLines, recordOf } from './up.js';

export const demo: Command = {
  name: 'demo',
  positional: [],
  summary: 'break a real Xen under running VMs, bring it back, and show how it went',
  options: [
    ...NEW_BOX_OPTIONS,
    { name: 'seed', value: 'n', summary: 'repeat the choice of the points of failure (default: random, and shown)' },
    { name: 'runs', value: 'n', summary: 'repeat from the snapshot with so many different points, and print a tally' },
    { name: 'capsules', value: 'folder', summary: 'keep a capsule of each failure there, for "ninelives replay"' },
    { name: 'keep', summary: 'leave the box running afterwards' },
  ],
  examples: ['ninelives demo', 'ninelives demo --runs 50 --seed 7', 'ninelives demo --cpus 8 --memory 8G --json'],
  async run(context) {
    const { typed, terminal, signal } = context;
    const seed = parseSeed(typed.text('seed') ?? String(Math.floor(Math.random() * 2 ** 32)));
    const runs = parseRuns(typed.text('runs') ?? '1');
    const spec = newBoxSpec(typed);
    const keep = typed.given('keep');
    const runtimeDir = keep ? claimBox(spec.name) : undefined;
    let kept = false;
    try {
      const opening = openBox(
        spec,
        terminal,
        runtimeDir === undefined ? { signal } : { lifetime: 'detached', runtimeDir, signal },
      );
      await using box = await opening;
      try {
        const trials = await runTrials(box, { seed, runs }, context);
        if (keep) recordBox(recordOf(box));
        kept = keep;
        return conclude(box, seed, trials, context);
      } finally {
        if (!kept) await box.stop();
      }
    } finally {
      if (keep && !kept) forgetBox(spec.name);
    }
  },
};

interface Plan {
  readonly seed: number;
  readonly runs: number;
}

async function runTrials(box: Box, { seed, runs }: Plan, context: Context): Promise<InjectedTrial[]> {
  const { terminal, signal, typed, json, print, colors, width } = context;
  terminal.step('finding Xen');
  await box.machine.freeze();
  const target: Target = await findTarget(box.machine);
  await box.machine.resume();
  const oracle = new ChainOracle();
  const capsules = typed.text('capsules');
  const trials: InjectedTrial[] = [];
  for (let run = 1; run <= runs; run++) {
    signal.throwIfAborted();
    terminal.step(runs === 1 ? 'breaking and recovering' : `run ${run} of ${runs}`);
    if (run > 1) await box.restore();
    const capsuleDir = capsules === undefined ? undefined : join(capsules, `seed-${seed}-run-${run}`);
    if (capsuleDir !== undefined) await mkdir(capsuleDir, { recursive: true });
    const trial = await runTrial(box, target, {
      planned: planInjection(Random.forPart(seed, run), { type: 'failstop' }, TRIGGER),
      oracle,
      signal,
      warm: run > 1,
      told: (text) => terminal.detail(text),
      ...(capsuleDir === undefined ? {} : { evidenceDir: capsuleDir }),
    });
    if (!isInjected(trial)) throw new NinelivesError('NL_TIMEOUT', trial.cause ?? 'nothing was broken', AGAIN);
    trials.push(trial);
    terminal.done();
    if (json) continue;
    if (runs === 1) print(['', ...timeline(storyOf(box, trial, seed), { width, colors })]);
    else print([runLine(run, trial, context)]);
  }
  return trials;
}

/** Somewhere in the next half second, and at any instruction of a block: freezing stops a CPU between blocks of QEMU's. */
const TRIGGER: TriggerSpec = { type: 'timer', delayMs: [50, 600], instructions: [0, 60], limitMs: 20_000 };
const AGAIN = { fix: 'run it again: no CPU came to the point in Xen that was chosen' };

/** One line for one of many runs. */
function runLine(run: number, trial: InjectedTrial, { paint }: Context): string {
  const { success, noVmf } = trial.verdict;
  const mark = success ? (noVmf ? paint.green('✓') : paint.yellow('!')) : paint.red('✗');
  const latency = trial.recoveries[0]?.latencyMs;
  const took = latency === undefined ? '' : duration(latency);
  const cause = trial.cause === undefined ? '' : `  ${paint.dim(trial.cause)}`;
  return `${mark} ${String(run).padStart(4)}  ${took.padStart(8)}  ${trial.point.vcpu} ${trial.point.at}${cause}`;
}

function conclude(box: Box, seed: number, trials: readonly InjectedTrial[], context: Context): number {
  const { json, print, printJson, width, colors, paint } = context;
  const results = trials.map(runResult);
  const allHeld = trials.every((trial) => trial.verdict.success);
  const [first] = trials;
  if (json) {
    if (trials.length === 1 && first !== undefined) printJson(demoObject(box, first, seed));
    else printJson(tallyObject(box, trials, seed, tallyOf(results)));
  } else {
    if (trials.length > 1) print(['', ...tallyLines(results, { width, colors })]);
    const again = trials.length > 1 ? ` --runs ${trials.length}` : '';
    print([
      '',
      paint.dim(`${count(trials.length, 'run')} with seed ${seed}; again: ninelives demo --seed ${seed}${again}`),
    ]);
    if (context.typed.given('keep')) print(['', 'the box is left running', ...reachLines(recordOf(box))]);
  }
  return allHeld ? EXIT.ok : EXIT.targetFailed;
}
