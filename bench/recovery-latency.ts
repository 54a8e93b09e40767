/**
 * How long a recovery takes, from the stop of the machine to its resumption by QEMU's own clock, with a breakdown by phase and
 * step; what RAM adds to it, against the variant that scans all page frames; the first recovery of a fresh process; and
 * the outage as seen from outside, detection included, for panics and for hangs. Sizes and variants take turns within one
 * run, so that whatever else the host does falls on all alike.
 *
 *     npm run bench:recovery-latency [-- --failures 60 --ram 8192,2048,16384 --cold 6 --hangs 20 --json]
 */
import { execFileSync } from 'node:child_process';
import { cpus as hostCpus, loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Random } from '../dist/common/random.js';
import { quantile } from '../dist/common/statistics.js';
import { faultSchema } from '../dist/inject/index.js';
import { microreset, microresetByScan } from '../dist/recover/microreset/index.js';
import type { PhaseTimes } from '../dist/recover/outcome.js';
import { type Measured, Rig } from './support/rig.js';

const { values } = parseArgs({
  options: {
    failures: { type: 'string', default: '60' },
    cpus: { type: 'string', default: '8' },
    ram: { type: 'string', default: '8192,2048,16384' },
    cold: { type: 'string', default: '6' },
    hangs: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const failures = Number(values.failures);
const cpus = Number(values.cpus);
const sizes = values.ram.split(',').map(Number);
const reference = sizes[0]!;
/** Failures in a row in one box, before the next size has its turn; every fourth is recovered by the scanning variant. */
const TURN = 20;
const SCAN_EVERY = 4;
const HANG = faultSchema.parse({ type: 'hang' });

const begun = performance.now();
const tell = (text: string): void => {
  console.error(`${((performance.now() - begun) / 1000).toFixed(0).padStart(4)} s  ${text}`);
};

interface Row extends Measured {
  readonly ram: number;
  readonly kind: 'touched' | 'scan' | 'hang';
}

const rows: Row[] = [];
let lost = 0;

async function turn(ram: number, random: Random, count: number, kindOf: (n: number) => Row['kind']): Promise<void> {
  await using rig = await Rig.open(cpus, ram, {
    progress: { step: (label) => tell(`${ram} MiB: ${label}`), detail() {} },
  });
  await (await rig.guard(microreset, 'watch')).warm;
  for (let n = 0; n < count; n++) {
    const kind = kindOf(n);
    const mechanism = kind === 'scan' ? microresetByScan : microreset;
    const measured = await rig.fail(mechanism, random, kind === 'hang' ? HANG : undefined);
    if (measured === undefined) {
      lost++;
      await rig.renew();
    } else {
      rows.push({ ...measured, ram, kind });
    }
  }
}

/** First recoveries of fresh processes. */
function cold(when: 'warm' | 'at-once'): number[] {
  const script = join(dirname(fileURLToPath(import.meta.url)), 'recovery-cold.js');
  const found: number[] = [];
  for (let n = 0; n < Number(values.cold); n++) {
    const args = [script, String(cpus), String(reference), String(Number(values.seed) + n), when];
    const { latencyMs } = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as {
      latencyMs?: number;
    };
    if (latencyMs === undefined) lost++;
    else found.push(latencyMs);
  }
  return found;
}

const spread = (list: readonly number[]) => ({
  count: list.length,
  p50Ms: quantile(list, 0.5),
  p90Ms: quantile(list, 0.9),
  p99Ms: quantile(list, 0.99),
  maxMs: Math.max(...list),
});

const random = new Random(BigInt(values.seed));
for (let done = 0; done < failures; done += TURN) {
  for (const ram of sizes) {
    const count = Math.ceil((Math.min(TURN, failures - done) * SCAN_EVERY) / (SCAN_EVERY - 1));
    await turn(ram, random, count, (n) => (n % SCAN_EVERY === SCAN_EVERY - 1 ? 'scan' : 'touched'));
  }
}
if (Number(values.hangs) > 0) await turn(reference, random, Number(values.hangs), () => 'hang');
const fresh = { afterWarmUp: spread(cold('warm')), atOnce: spread(cold('at-once')) };

const of = (kind: Row['kind'], ram: number): Row[] => rows.filter((row) => row.kind === kind && row.ram === ram);
const latencies = (list: readonly Row[]) => spread(list.map((row) => row.passage.standstillMs));
const outages = (list: readonly Row[]) => ({
  ...spread(list.map(({ passage }) => passage.detectionMs + passage.standstillMs)),
  detection: spread(list.map(({ passage }) => passage.detectionMs)),
});
const main = of('touched', reference);
const phases = Object.keys(main[0]!.recovery.phases) as (keyof PhaseTimes)[];
const steps = main[0]!.recovery.plan.steps.map((step) => step.name);
const stepTime = ({ recovery }: Row, name: string): number =>
  recovery.plan.steps.find((step) => step.name === name)?.durationMs ?? 0;
const table = (names: readonly string[], value: (row: Row, name: string) => number, q: number) =>
  Object.fromEntries(
    names.map((name) => [
      name,
      quantile(
        main.map((row) => value(row, name)),
        q,
      ),
    ]),
  );
const perRam = Object.fromEntries(sizes.map((ram) => [ram, latencies(of('touched', ram))]));
const medians = sizes.map((ram) => perRam[ram]!.p50Ms);
const result = {
  cpus,
  memoryMiB: reference,
  ...latencies(main),
  perPhaseMs: table(phases, (row, name) => row.recovery.phases[name as keyof PhaseTimes], 0.5),
  perPhaseP99Ms: table(phases, (row, name) => row.recovery.phases[name as keyof PhaseTimes], 0.99),
  perStepMs: table(steps, stepTime, 0.5),
  perStepP99Ms: table(steps, stepTime, 0.99),
  perRam,
  /** Largest median of the sizes of RAM, over the smallest. */
  ramRatio: Math.max(...medians) / Math.min(...medians),
  byScan: Object.fromEntries(sizes.map((ram) => [ram, latencies(of('scan', ram))])),
  cold: fresh,
  outage: { panic: outages(main), hang: outages(of('hang', reference)) },
  notRecovered: lost,
  host: { cores: hostCpus().length, load: loadavg()[0] },
};

if (values.json) console.log(JSON.stringify(result));
else print();

function print(): void {
  const ms = (value: number): string => value.toFixed(1).padStart(7);
  const line = (name: string, { count, p50Ms, p90Ms, p99Ms, maxMs }: ReturnType<typeof spread>): void => {
    const times = count === 0 ? ' '.repeat(28) : `${ms(p50Ms)}${ms(p90Ms)}${ms(p99Ms)}${ms(maxMs)}`;
    console.log(`${name.padEnd(28)}${times}   ${count}`);
  };
  console.log(`${cpus} CPUs; milliseconds${' '.repeat(9)}   p50    p90    p99    max   count`);
  for (const ram of sizes) line(`${ram / 1024} GiB`, perRam[ram]!);
  for (const ram of sizes) line(`${ram / 1024} GiB, all frames scanned`, result.byScan[ram]!);
  line('first of a process, warm', fresh.afterWarmUp);
  line('first of a process, at once', fresh.atOnce);
  line('outage: panic', result.outage.panic);
  line('outage: hang', result.outage.hang);
  console.log(`largest median of the sizes over the smallest: ${result.ramRatio.toFixed(3)}; not recovered: ${lost}`);
  console.log(`\nphases and steps with ${reference / 1024} GiB: p50, p99`);
  for (const name of phases)
    console.log(`${name.padEnd(28)}${ms(result.perPhaseMs[name]!)}${ms(result.perPhaseP99Ms[name]!)}`);
  for (const name of steps)
    console.log(`  ${name.padEnd(26)}${ms(result.perStepMs[name]!)}${ms(result.perStepP99Ms[name]!)}`);
}
