import { PerformanceObserver } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { Random } from '../dist/common/random.js';
import { quantile } from '../dist/common/statistics.js';
import { Guard } from '../dist/guard/guard.js';
import { findTarget } from '../dist/guard/target.js';
import { injectFailstop } from '../dist/inject/failstop.js';
import { makePlan } from '../dist/recover/mechanism.js';
import { microreset, microresetByScan } from '../dist/recover/microreset/index.js';
import { openBox } from '../dist/testbed/box.js';
import { DEFAULT_BOX } from '../dist/testbed/spec.js';
import { StopClock } from './support/stop-clock.js';

const { values } = parseArgs({
  options: {
    failures: { type: 'string', default: '40' },
    cpus: { type: 'string', default: '8' },
    ram: { type: 'string', default: '8192' },
    seed: { type: 'string', default: '1' },
    audit: { type: 'boolean', default: false },
    scan: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const t0 = performance.now();
const say = (s: string) => console.error(((performance.now() - t0) / 1000).toFixed(1), s);
const spec = { ...DEFAULT_BOX, name: 'latency', cpus: Number(values.cpus), memoryMiB: Number(values.ram) };
await using box = await openBox(spec, { step: say, detail: () => {} });
say(`open ${JSON.stringify(box.origin)}`);
const random = new Random(BigInt(values.seed));
const rows: any[] = [];
let gcs: any[] = [];
new PerformanceObserver((l) => gcs.push(...l.getEntries())).observe({ entryTypes: ['gc'] });
let audited: any;
const framesEdits = (plan: any) =>
  plan.edits
    .filter((e: any) => e.step === 'page-frames' || e.step === 'page-tables')
    .map((e: any) => `${e.address.toString(16)}=${Buffer.from(e.after).toString('hex')}`);
const audit = {
  name: 'audit-first',
  removes: '',
  source: '',
  run: (c: any) => {
    audited = framesEdits(makePlan(microresetByScan, c.frozen, c.facts, { scope: 'everything' }));
  },
};
const mech = values.audit
  ? { name: 'microreset', steps: [audit, ...microreset.steps] }
  : values.scan
    ? microresetByScan
    : microreset;
let n = 0;
let agree = 0,
  disagree = 0,
  some = 0;
outer: while (n < Number(values.failures)) {
  if (n > 0) await box.restore();
  await box.machine.freeze();
  const target = await findTarget(box.machine);
  const a = performance.now();
  const guard = await Guard.attach(target, { hangs: 'ignore', mechanism: mech });
  const b = performance.now();
  await guard.warm;
  say(`attach ${(b - a).toFixed(0)} warm ${(performance.now() - b).toFixed(0)}`);
  using clock = new StopClock(box.machine);
  for (let k = 0; k < 20 && n < Number(values.failures); k++) {
    const point = await injectFailstop(target, random, { delayMs: [250, 500], maxSteps: 60 });
    await clock.reset();
    gcs = [];
    const r = await guard.nextRecovery(10000);
    const c = await clock.stoodMs();
    n++;
    if (r === undefined || r.result !== 'resumed') {
      say(`not recovered ${point.at} ${r?.plan.problems.map((p) => p.message)}`);
      continue outer;
    }
    const g = gcs
      .filter((e) => e.startTime >= r.failure.detectedAtMs && e.startTime <= r.failure.detectedAtMs + r.latencyMs)
      .map((e) => `${e.detail.kind}:${e.duration.toFixed(1)}`);
    rows.push({ r, c });
    const p = r.phases;
    let aud = '';
    if (values.audit) {
      const now = framesEdits(r.plan);
      const x = [...now].sort().join(),
        y = [...audited].sort().join();
      if (now.length || audited.length) some++;
      if (x === y) agree++;
      else {
        disagree++;
        aud = `DISAGREE touched [${x}] scan [${y}] ${r.plan.steps.filter((s) => s.name.startsWith('page')).map((s) => s.findings.join())}`;
      }
    }
    console.log(
      `${r.latencyMs.toFixed(1).padStart(6)} qemu ${c.stoodMs.toFixed(1).padStart(6)} untilStop ${c.untilStopMs.toFixed(1).padStart(6)} | cap ${p.captureMs.toFixed(1)} settle ${p.settleMs.toFixed(1)} plan ${p.planMs.toFixed(1)} check ${p.checkMs.toFixed(1)} commit ${p.commitMs.toFixed(1)} resume ${p.resumeMs.toFixed(1)} | ${r.plan.steps
        .filter((s) => s.durationMs > 0.5)
        .map((s) => `${s.name} ${s.durationMs.toFixed(1)}`)
        .join(
          ', ',
        )} | ${r.plan.cpus.filter((c) => c.abandoned).length} ab | ${point.at} ${point.hypercall ?? ''} gc ${g} ${r.plan.steps.filter((s) => s.name.startsWith('page')).map((s) => s.findings.length)} ${aud}`,
    );
  }
}
const q = (f: (x: any) => number) => [0.5, 0.9, 0.99].map((p) => quantile(rows.map(f), p).toFixed(1)).join(' ');
console.log(
  'latency',
  q((x) => x.r.latencyMs),
  'qemu',
  q((x) => x.c.stoodMs),
  'agree',
  agree,
  'disagree',
  disagree,
  'with edits',
  some,
);
for (const f of ['captureMs', 'settleMs', 'planMs', 'checkMs', 'commitMs', 'resumeMs'])
  console.log(
    f,
    q((x) => x.r.phases[f]),
  );
console.log(
  rows[0].r.plan.steps
    .map((s: any) => s.name)
    .map((name: string) => `${name} ${q((x) => x.r.plan.steps.find((s: any) => s.name === name).durationMs)}`)
    .join('\n'),
);
