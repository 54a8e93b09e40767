import { describe, expect, it } from 'vitest';
import { newVmState } from '../../src/testbed/new-vm.js';
import type { VmReport } from '../../src/testbed/reports.js';
import { mixAfter } from '../../src/testbed/unikernel/mix.js';
import { STAGES } from '../../src/testbed/unikernel/report.js';
import { CHECKS } from '../../src/testbed/unikernel/runtime.js';

const report = (change: Partial<VmReport>): VmReport => ({
  ...{ name: 'new1', kind: 'pv', n: 2, digest: mixAfter('new1', 2, 'blkbench'), errors: 0, note: '-' },
  ...{ work: 'blkbench', stage: 'rest' },
  ...change,
});

describe('a VM that was just created', () => {
  it('works when its first steps are right', () => {
    expect(newVmState(report({}))).toEqual({ kind: 'works' });
    expect(newVmState(report({ n: 1, work: 'mix', digest: mixAfter('new1', 1, 'mix') }))).toEqual({ kind: 'works' });
  });

  it('has failed when its digest is not ours', () => {
    const state = newVmState(report({ n: 3 }));
    expect(state).toEqual({ kind: 'failed', reason: 'its digest at step 3 is wrong' });
  });

  it('has failed when a check of its own has, with or without a step', () => {
    const said = CHECKS.map((note) => newVmState(report({ n: 0, errors: 1, note })));
    for (const state of said) expect(state.kind).toBe('failed');
    expect(new Set(said.map((state) => JSON.stringify(state))).size).toBe(CHECKS.length);
    expect(newVmState(report({ errors: 1, note: 'data' }))).toMatchObject({
      reason: expect.stringContaining('differs'),
    });
  });

  it('is waited for until its first step, with the reason to tell in the end', () => {
    expect(newVmState(undefined)).toMatchObject({ kind: 'waiting', reason: 'its kernel does not run' });
    for (const stage of STAGES) expect(newVmState(report({ n: 0, stage })).kind).toBe('waiting');
    expect(newVmState(report({ n: 0, stage: 'backend' }))).toMatchObject({
      reason: 'its block device never connected',
    });
  });
});
