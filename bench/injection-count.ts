/**
 * What the injector's count of instructions costs: random counts as a campaign draws them, on the default box, and for how long the
 * machine's clock went on meanwhile although only one CPU ran.
 *
 *     npm run bench:injection-count [-- --counts 100 --instructions 20000 --json]
 */
import { parseArgs } from 'node:util';
import { silent } from '../dist/common/progress.js';
import { Random } from '../dist/common/random.js';
import { findTarget } from '../dist/guard/target.js';
import { Control } from '../dist/inject/control.js';
import { countInXen, noEffort } from '../dist/inject/count.js';
import { siteInXen } from '../dist/inject/triggers/timer.js';
import { openBox } from '../dist/testbed/box.js';
import { DEFAULT_BOX } from '../dist/testbed/spec.js';

const { values } = parseArgs({
  options: {
    counts: { type: 'string', default: '100' },
    instructions: { type: 'string', default: '20000' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const random = new Random(Number(values.seed));
const signal = new AbortController().signal;

await using box = await openBox(DEFAULT_BOX, silent);
const { machine } = box;
await machine.freeze();
const target = await findTarget(machine);
const control = new Control(machine, { signal });

/** Host time during which the machine ran for one CPU, in milliseconds: its clock went on at most that long. */
let aloneMs = 0;
const timed = <A extends unknown[], R>(run: (...args: A) => Promise<R>): ((...args: A) => Promise<R>) => {
  return async (...args) => {
    const begin = performance.now();
    try {
      return await run(...args);
    } finally {
      aloneMs += performance.now() - begin;
    }
  };
};
machine.runOne = timed(machine.runOne.bind(machine));
machine.stepOne = timed(machine.stepOne.bind(machine));
machine.runThese = timed(machine.runThese.bind(machine));

const findMs: number[] = [];
const countMs: number[] = [];
const alone: number[] = [];
const effort = noEffort();
let instructions = 0;
let notReached = 0;
for (let n = 0; n < Number(values.counts); n++) {
  await control.runFor(random.integer(50, 500));
  const begin = performance.now();
  const draw = { victim: random.integer(0, 2 ** 31 - 1), retries: random.integer(0, 2 ** 31 - 1) };
  const count = random.integer(0, Number(values.instructions));
  const deadline = begin + 10_000;
  const site = await siteInXen(target, control, { ...draw, deadline });
  const found = performance.now();
  aloneMs = 0;
  const result = site && (await countInXen(site, { instructions: count, deadline }, effort));
  if (result?.kind !== 'reached') {
    notReached++;
    continue;
  }
  findMs.push(found - begin);
  countMs.push(performance.now() - found);
  alone.push(aloneMs);
  instructions += count;
}

const sum = (list: readonly number[]): number => list.reduce((total, value) => total + value, 0);
const mean = (list: readonly number[]): number => sum(list) / list.length;
const at = (list: readonly number[], part: number): number =>
  [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * part))] ?? Number.NaN;
const result = {
  counts: countMs.length,
  notReached,
  instructions,
  instructionsPerSecond: (instructions / sum(countMs)) * 1000,
  countMs: { mean: mean(countMs), p50: at(countMs, 0.5), p95: at(countMs, 0.95), max: at(countMs, 1) },
  findMs: { mean: mean(findMs), p95: at(findMs, 0.95) },
  aloneMs: { mean: mean(alone), p95: at(alone, 0.95), max: at(alone, 1) },
  effort,
};
if (values.json) console.log(JSON.stringify(result));
else {
  const ms = (value: number): string => value.toFixed(0);
  console.log(`${result.counts} counts, ${instructions} instructions, ${notReached} points not reached`);
  console.log(`${ms(result.instructionsPerSecond)} instructions a second`);
  const { countMs: took, findMs: found, aloneMs: ran } = result;
  console.log(`a count: mean ${ms(took.mean)} ms, median ${ms(took.p50)}, p95 ${ms(took.p95)}, max ${ms(took.max)}`);
  console.log(`finding a CPU in Xen: mean ${ms(found.mean)} ms, p95 ${ms(found.p95)}`);
  console.log(`of a count, not all CPUs ran for: mean ${ms(ran.mean)} ms, p95 ${ms(ran.p95)}, max ${ms(ran.max)}`);
  console.log(`effort: ${JSON.stringify(effort)}`);
}
