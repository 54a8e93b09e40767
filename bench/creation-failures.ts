/**
 * What becomes of a VM that is being created when the hypervisor fails in the middle of a hypercall that creates it. Each run restores the
 * default box, has dom0 create the new VM, and makes a CPU's program counter 0 some instructions behind the beginning of a function.
 *
 *     npm run bench:creation-failures -- --function populate_physmap [--hits 1-2 --instructions 0-3000 --runs 10 --seed 1]
 *                                        [--without memory-ops,event-binds] [--json]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { silent } from '../dist/common/progress.js';
import { Random } from '../dist/common/random.js';
import { Guard } from '../dist/guard/guard.js';
import { findTarget } from '../dist/guard/target.js';
import { Control } from '../dist/inject/control.js';
import { countInXen } from '../dist/inject/count.js';
import { failstop } from '../dist/inject/faults/failstop.js';
import { pointOf } from '../dist/inject/site.js';
import { functionTrigger } from '../dist/inject/triggers/function.js';
import { type Box, openBox } from '../dist/testbed/box.js';
import { DEFAULT_BOX } from '../dist/testbed/spec.js';

const { values } = parseArgs({
  options: {
    function: { type: 'string', default: 'populate_physmap' },
    hits: { type: 'string', default: '1-1' },
    instructions: { type: 'string', default: '0-3000' },
    runs: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    without: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});

const CREATION_LIMIT_MS = 20_000;
const REACH_LIMIT_MS = 15_000;
const DETECTION_LIMIT_MS = 10_000;
/** Within this time every VM has to get work done after the recovery. */
const PROGRESS_LIMIT_MS = 8000;
/** Steps that are about requests which are not idempotent. */
const STEPS = new Set(['memory-ops', 'event-binds', 'domctl', 'pauses']);

interface Run {
  readonly at: string;
  readonly result: string;
  /** What the steps found. */
  readonly found: readonly string[];
  /** Names of VMs that were there before and do no work any more, or fail their own checks. */
  readonly hurt: readonly string[];
  readonly newVm: string;
}

const rangeOf = (text: string): [number, number] => {
  const [low = 0, high = low] = text.split('-').map(Number);
  return [low, high];
};

async function hurtVms(box: Box): Promise<string[]> {
  const before = new Map(box.vms().map(({ name, n }) => [name, n]));
  const end = performance.now() + PROGRESS_LIMIT_MS;
  let hurt = box.vmNames;
  while (hurt.length > 0 && performance.now() < end) {
    await sleep(200);
    const now = box.vms();
    hurt = box.vmNames.filter((name) => {
      const vm = now.find((one) => one.name === name);
      return vm === undefined || vm.errors > 0 || vm.n <= (before.get(name) ?? 0);
    });
  }
  return hurt;
}

async function fail(box: Box, random: Random, warm: boolean): Promise<Run> {
  const { machine } = box;
  const signal = AbortSignal.timeout(REACH_LIMIT_MS + CREATION_LIMIT_MS + 60_000);
  const choice = functionTrigger.choose(
    random,
    functionTrigger.options.parse({
      type: 'function',
      function: values.function,
      hit: rangeOf(values.hits),
      delayMs: [0, 0],
      limitMs: REACH_LIMIT_MS,
    }),
  );
  const instructions = random.integer(...rangeOf(values.instructions));
  await sleep(300);
  const creation = box.createVm(CREATION_LIMIT_MS + REACH_LIMIT_MS);
  await sleep(20);
  await machine.freeze();
  const target = await findTarget(machine);
  const guard = await Guard.attach(target, {
    without: new Set(values.without.split(',')),
    ...(warm ? { rehearsals: 1 } : {}),
  });
  await guard.warm;
  const control = new Control(machine, { signal });
  const found: string[] = [];
  let [at, result] = ['-', 'not reached'];
  let reached = await functionTrigger.reach(target, control, choice);
  if (reached.kind === 'reached')
    reached = await countInXen(reached.site, { instructions, deadline: performance.now() + REACH_LIMIT_MS });
  if (reached.kind === 'reached') {
    const { at: place, hypercall } = pointOf(reached.site, reached);
    at = `${place}${hypercall === undefined ? '' : ` (${hypercall})`}, instruction ${instructions}`;
    await failstop.apply(reached.site, {});
    const recovery = await guard.nextRecovery(DETECTION_LIMIT_MS);
    result = recovery?.result ?? 'not detected';
    for (const step of recovery?.plan.steps ?? []) {
      if (STEPS.has(step.name)) found.push(...step.findings.map((finding) => `${step.name}: ${finding}`));
    }
  }
  if (machine.state === 'frozen' && result === 'not reached') await machine.resume();
  const created = await creation;
  const newVm = created.kind === 'created' ? 'works' : `failed: ${created.reason.replace(/\s+/g, ' ')}`;
  const hurt = await hurtVms(box);
  guard.stop();
  return { at, result, found, hurt, newVm };
}

const random = new Random(BigInt(values.seed));
const tally = { runs: 0, reached: 0, newVmWorks: 0, nobodyHurt: 0 };
await using box = await openBox(DEFAULT_BOX, silent);
for (let n = 0; n < Number(values.runs); n++) {
  if (n > 0) await box.restore();
  const run = await fail(box, random, n > 0);
  tally.runs++;
  if (run.at !== '-') {
    tally.reached++;
    if (run.newVm === 'works') tally.newVmWorks++;
    if (run.hurt.length === 0) tally.nobodyHurt++;
  }
  const told = [run.at, run.result, `new VM ${run.newVm}`, `hurt: ${run.hurt.join(' ') || 'nobody'}`, ...run.found];
  console.log(values.json ? JSON.stringify(run) : told.join('\n    '));
}
console.log(
  values.json
    ? JSON.stringify(tally)
    : Object.entries(tally)
        .map(([name, count]) => `${name} ${count}`)
        .join(', '),
);
