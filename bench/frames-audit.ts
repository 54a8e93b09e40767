/**
 * Whether the search for page frames that dropped threads can have touched finds what a scan of all of them finds: both plans are
 * made of each of many failures, and the edits of the two steps that repair page frames are compared. And whether the capsule kept
 * of each failure replays to the plan that was carried out.
 *
 *     npm run bench:frames-audit [-- --failures 200 --cpus 8 --ram 8192 --seed 1 --json]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Random } from '../dist/common/random.js';
import { type Mechanism, makePlan } from '../dist/recover/mechanism.js';
import { microreset, microresetByScan } from '../dist/recover/microreset/index.js';
import type { Plan } from '../dist/recover/plan.js';
import type { Step } from '../dist/recover/step.js';
import { replaysAlike } from './support/replay.js';
import { Rig } from './support/rig.js';

const { values } = parseArgs({
  options: {
    failures: { type: 'string', default: '200' },
    cpus: { type: 'string', default: '8' },
    ram: { type: 'string', default: '8192' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});

/** Failures in a row in one box. */
const TURN = 20;
const STEPS = new Set(['page-frames', 'page-tables']);

const editsOf = (plan: Plan): string[] =>
  plan.edits
    .flatMap((edit) =>
      edit.kind === 'memory' && STEPS.has(edit.step)
        ? [`${edit.address.toString(16)}: ${Buffer.from(edit.after).toString('hex')} (${edit.reason})`]
        : [],
    )
    .sort();

/** A folder for capsules that goes with this process. */
class Capsules implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'ninelives-audit-'));

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true });
  }
}

let scanned: string[] = [];
/** Runs first and changes nothing. */
const scan: Step = {
  name: 'scan',
  removes: 'nothing: it plans by a scan of all page frames, to compare',
  source: 'ours',
  run({ frozen, facts }) {
    scanned = editsOf(makePlan(microresetByScan, frozen, facts, { scope: 'everything' }));
  },
};
const audited: Mechanism = { name: microreset.name, steps: [scan, ...microreset.steps] };

const failures = Number(values.failures);
const random = new Random(BigInt(values.seed));
const differences: { at: string; touched: string[]; scan: string[] }[] = [];
let compared = 0;
let withEdits = 0;
let lost = 0;
let otherwise = 0;
using capsules = new Capsules();
await using rig = await Rig.open(Number(values.cpus), Number(values.ram), { capsuleDir: capsules.dir });
for (let n = 0; n < failures; n++) {
  if (n > 0 && n % TURN === 0) await rig.renew();
  const measured = await rig.fail(audited, random);
  if (measured === undefined) {
    lost++;
    await rig.renew();
    continue;
  }
  const { plan, failure } = measured.recovery;
  const touched = editsOf(plan);
  compared++;
  if (touched.length + scanned.length > 0) withEdits++;
  if (!replaysAlike(measured.recovery, microreset)) {
    otherwise++;
    console.error(`replays otherwise: ${measured.recovery.capsule}`);
  }
  if (touched.join() !== scanned.join()) {
    differences.push({ at: failure.at ?? failure.summary, touched, scan: scanned });
    for (const cpu of plan.cpus) if (cpu.abandoned) console.error(`  CPU ${cpu.cpu}: ${cpu.backtrace.join(' ')}`);
    console.error(`differs:\n  touched ${touched.join('\n    ')}\n  scan ${scanned.join('\n    ')}`);
  }
}
const result = {
  compared,
  withEdits,
  replayedOtherwise: otherwise,
  equal: compared - differences.length,
  differences,
  notRecovered: lost,
};
if (values.json) console.log(JSON.stringify(result));
else {
  console.log(`${compared} failures compared, ${withEdits} of them with page frames to repair; not recovered: ${lost}`);
  console.log(`equal: ${result.equal}; different: ${differences.length}; capsules that replay otherwise: ${otherwise}`);
}
