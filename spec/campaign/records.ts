/** Records for tests. */
import type { RunRecord } from '../../src/campaign/record.js';

export const PLANNED: RunRecord['planned'] = {
  fault: 'failstop',
  faultChoice: {},
  trigger: 'timer',
  triggerChoice: { delayMs: 88 },
};

/** A detected failure from which everything recovered, unless said otherwise. */
export function record(run: number, other: Partial<RunRecord> = {}): RunRecord {
  return {
    run,
    startedAt: '2026-11-24T18:42:18.158Z',
    tookMs: 9000,
    planned: PLANNED,
    outcome: 'detected',
    end: 'no-vmf',
    failures: [{ kind: 'fatal-trap', cpu: 0, at: '0x0', summary: 'page fault in Xen at 0x0', afterMs: 11.9 }],
    latencyMs: 10 + run,
    vms: [{ name: 'dom0', kind: 'dom0', work: 'files', alive: true, intact: true }],
    newVm: { ok: true },
    evidence: [],
    spentMs: { restore: 400 },
    ...other,
  };
}

/** One that did not manifest itself: nothing was seen. */
export const quiet = (run: number): RunRecord => {
  const { end: _, latencyMs: __, newVm: ___, ...rest } = record(run, { outcome: 'not-manifested', failures: [] });
  return rest;
};
