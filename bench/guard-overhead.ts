/**
 * What an attached, idle guard costs the guests: their work per second with it and without it, in turns within one run,
 * so that whatever else the host does falls on both alike.
 *
 *     npm run bench:guard-overhead [-- --rounds 12 --seconds 15 --json]
 */
import { parseArgs } from 'node:util';
import { silent } from '../dist/common/progress.js';
import { Guard } from '../dist/guard/guard.js';
import { findTarget } from '../dist/guard/target.js';
import { type Box, openBox } from '../dist/testbed/box.js';
import { DEFAULT_BOX } from '../dist/testbed/spec.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '12' },
    seconds: { type: 'string', default: '15' },
    json: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds);
const windowMs = Number(values.seconds) * 1000;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const steps = (box: Box): number => box.vms().reduce((sum, vm) => sum + vm.n, 0);

async function workOf(box: Box): Promise<number> {
  const before = steps(box);
  const begin = performance.now();
  await sleep(windowMs);
  return ((steps(box) - before) / (performance.now() - begin)) * 1000;
}

await using box = await openBox(DEFAULT_BOX, silent);
await box.machine.freeze();
const target = await findTarget(box.machine);
await box.machine.resume();

const attached: number[] = [];
const detached: number[] = [];
let alarms = 0;
for (let round = 0; round < rounds; round++) {
  await box.machine.freeze();
  const guard = await Guard.attach(target, { onEvent: (event) => (alarms += event.kind === 'false-alarm' ? 1 : 0) });
  const watching = guard.run();
  await sleep(2000);
  attached.push(await workOf(box));
  guard.stop();
  await watching;
  await box.machine.freeze();
  await box.machine.clearBreakpoints();
  await box.machine.resume();
  await sleep(2000);
  detached.push(await workOf(box));
}

const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 1] ?? Number.NaN;
const ratios = attached.map((value, n) => value / detached[n]!);
const mean = (list: readonly number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;
const result = {
  rounds,
  secondsEach: windowMs / 1000,
  stepsPerSecond: { attached: mean(attached), detached: mean(detached) },
  ratioOfMeans: mean(attached) / mean(detached),
  medianRatio: median(ratios),
  ratios,
  falseAlarms: alarms,
};
if (values.json) console.log(JSON.stringify(result));
else {
  console.log(
    `steps of work per second, all VMs: ${mean(attached).toFixed(2)} attached, ${mean(detached).toFixed(2)} detached`,
  );
  console.log(
    `ratio of means ${result.ratioOfMeans.toFixed(4)}, median of ${rounds} pairs ${result.medianRatio.toFixed(4)}`,
  );
  console.log(`pairs: ${ratios.map((ratio) => ratio.toFixed(3)).join(' ')}`);
  console.log(`false alarms of the hang watchdog: ${alarms}`);
}
