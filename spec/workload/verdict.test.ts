import { describe, expect, it } from 'vitest';
import type { VmKind, VmReport } from '../../src/testbed/reports.js';
import { ChainOracle } from '../../src/workload/chain.js';
import { allWell, judge, type Sample, summarize, type VmVerdict } from '../../src/workload/verdict.js';

const oracle = new ChainOracle();
const EXPECTED = [
  { name: 'dom0', kind: 'dom0' as VmKind },
  { name: 'app1', kind: 'pv' as VmKind },
];

function vm(name: string, n: number, change: Partial<VmReport> = {}): VmReport {
  const kind: VmKind = name === 'dom0' ? 'dom0' : 'pv';
  return { name, kind, n, digest: oracle.digest(name, n), errors: 0, note: '-', work: 'files', ...change };
}

let clock = 0;
const sample = (...vms: VmReport[]): Sample => ({ atMs: clock++, vms });
const judged = (before: Sample, resumed: Sample, ...after: Sample[]): VmVerdict[] =>
  judge(before, resumed, after, { expected: EXPECTED, oracle });

describe('a VM', () => {
  it('is alive and intact when its work goes on and is right', () => {
    const verdicts = judged(
      sample(vm('dom0', 10), vm('app1', 5)),
      sample(vm('dom0', 10), vm('app1', 6)),
      sample(vm('dom0', 14), vm('app1', 8)),
    );
    expect(verdicts).toEqual([
      { name: 'dom0', kind: 'dom0', alive: true, intact: true, progress: 4 },
      { name: 'app1', kind: 'pv', alive: true, intact: true, progress: 2 },
    ]);
    expect(allWell(verdicts)).toBe(true);
  });

  it('is not alive when it stands', () => {
    const [, app1] = judged(
      sample(vm('dom0', 1), vm('app1', 5)),
      sample(vm('dom0', 1), vm('app1', 5)),
      sample(vm('dom0', 9), vm('app1', 6)),
    );
    expect(app1).toMatchObject({ alive: false, intact: false, reason: 'it stands at step 6' });
  });

  it('is not alive when it never reported, or its report is gone', () => {
    const [dom0, app1] = judged(sample(vm('dom0', 1)), sample(vm('dom0', 1)), sample());
    expect(app1).toMatchObject({ alive: false, intact: false, reason: 'it never reported' });
    expect(dom0).toMatchObject({ alive: false, intact: false, reason: 'its report at step 1 is gone' });
  });

  it('is not intact when a digest is wrong, now or on the way', () => {
    const wrong = vm('app1', 8, { digest: oracle.digest('app1', 9) });
    const start = sample(vm('app1', 5));
    for (const after of [[sample(wrong)], [sample(wrong), sample(vm('app1', 12))]]) {
      const app1 = judged(start, start, ...after).at(-1);
      expect(app1).toMatchObject({ alive: true, intact: false, reason: 'its digest at step 8 is wrong' });
    }
  });

  it('is not intact when a check of its own failed', () => {
    const start = sample(vm('app1', 5));
    const app1 = judged(start, start, sample(vm('app1', 9, { errors: 1, note: 'compare' }))).at(-1);
    expect(app1).toMatchObject({ alive: true, intact: false });
    expect(app1?.reason).toContain('"compare"');
  });

  it('is not intact when it started anew', () => {
    const start = sample(vm('app1', 50));
    const app1 = judged(start, start, sample(vm('app1', 3))).at(-1);
    expect(app1).toMatchObject({ alive: false, intact: false });
    expect(app1?.reason).toContain('went back');
  });
});

describe('a box', () => {
  const well = (name: string, kind: VmKind): VmVerdict => ({ name, kind, alive: true, intact: true, progress: 9 });
  const ill = (name: string, kind: VmKind): VmVerdict => ({ ...well(name, kind), alive: false, intact: false });
  const dom0 = well('dom0', 'dom0');

  it('is a success without failures when all is well and a new VM can be created', () => {
    expect(summarize([dom0, well('app1', 'pv')], true)).toMatchObject({ success: true, noVmf: true });
    expect(summarize([dom0, well('app1', 'pv')], false)).toMatchObject({ success: false, noVmf: true });
  });

  it('is a success with one AppVM affected, not with two, and not with dom0', () => {
    expect(summarize([dom0, ill('app1', 'pv'), well('app2', 'pvh')], true)).toMatchObject({
      success: true,
      noVmf: false,
    });
    expect(summarize([dom0, ill('app1', 'pv'), ill('app2', 'pvh')], true).success).toBe(false);
    expect(summarize([ill('dom0', 'dom0'), well('app1', 'pv')], true).success).toBe(false);
  });
});
