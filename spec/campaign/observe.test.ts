/** What the observer makes of samples, with a box and a guard that are none. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DEFAULT_LIMITS, type ObserveLimits, Observer } from '../../src/campaign/observe.js';
import { OutsideWatch } from '../../src/campaign/outside.js';
import { Sightings } from '../../src/campaign/sightings.js';
import { NinelivesError } from '../../src/common/errors.js';
import type { Guard, GuardEvent } from '../../src/guard/guard.js';
import type { Box, NewVm } from '../../src/testbed/box.js';
import type { VmReport } from '../../src/testbed/reports.js';
import { ChainOracle } from '../../src/workload/chain.js';
import type { Sample } from '../../src/workload/verdict.js';

const oracle = new ChainOracle();
const CREATED: NewVm = { kind: 'created', name: 'new1', createMs: 1, workingMs: 2 };
const LIMITS: ObserveLimits = { ...DEFAULT_LIMITS, quietMs: 400, quietSteps: 2, detectionMs: 1200, revivalMs: 1200 };
const BEGIN_MS = performance.now();

const report = (name: string, kind: VmReport['kind'], n: number): VmReport => ({
  name,
  kind,
  n,
  digest: oracle.digest(name, n),
  errors: 0,
  note: '-',
  work: 'files',
});

interface Script {
  /** Steps that each VM has done, by the time since the beginning. */
  readonly dom0?: (ms: number) => number;
  readonly app1?: (ms: number) => number;
  /** What the guard sees and does. */
  readonly guard?: (note: (event: GuardEvent) => void, stopped: () => boolean) => Promise<void>;
  readonly createVm?: () => Promise<NewVm>;
  readonly wanted?: 'golden' | 'recovery';
}

const steady = (ms: number): number => 10 + Math.floor(ms / 50);
const untilStopped = async (_: unknown, stopped: () => boolean): Promise<void> => {
  while (!stopped()) await sleep(10);
};

async function observe({ dom0 = steady, app1 = steady, guard = untilStopped, createVm, wanted = 'recovery' }: Script) {
  const begun = performance.now();
  let created = 0;
  const sample = (): Sample => {
    const ms = performance.now() - begun;
    return { atMs: performance.now(), vms: [report('dom0', 'dom0', dom0(ms)), report('app1', 'pv', app1(ms))] };
  };
  const seen = new Sightings(sample);
  const box = {
    spec: { guests: [{ name: 'app1', kind: 'pv' }] },
    createVm: () => {
      created++;
      return createVm?.() ?? Promise.resolve(CREATED);
    },
  } as unknown as Box;
  let stopped = false;
  const outside = new OutsideWatch(undefined);
  const parts = { box, seen, outside, before: sample(), sample, limits: LIMITS, oracle, told: () => {}, wanted };
  const observer = new Observer({ ...parts, signal: new AbortController().signal });
  const observation = await observer.watch({
    run: () =>
      guard(
        (event) => seen.note(event),
        () => stopped,
      ),
    stop: () => {
      stopped = true;
    },
  } as unknown as Guard);
  return { ...observation, seen, tookMs: performance.now() - begun, created };
}

const failure = { kind: 'bug', summary: 'BUG at x', detectedAtMs: BEGIN_MS } as const;
const recovered = {
  kind: 'recovered',
  recovery: { failure, result: 'resumed', latencyMs: 5 },
} as unknown as GuardEvent;

/** A failure after `ms`, recovered at once. */
const failsAt =
  (ms: number) =>
  async (note: (event: GuardEvent) => void, stopped: () => boolean): Promise<void> => {
    await sleep(ms);
    note({ kind: 'failure', failure });
    note(recovered);
    while (!stopped()) await sleep(10);
  };

describe('an observer', () => {
  it('waits for the quiet time when nothing happens, and creates no VM', async () => {
    const { vms, newVm, tookMs, created } = await observe({});
    expect(vms.every((vm) => vm.alive && vm.intact)).toBe(true);
    expect([newVm, created]).toEqual([undefined, 0]);
    expect(tookMs).toBeGreaterThanOrEqual(400);
    expect(tookMs).toBeLessThan(1100);
  });

  it('creates a VM in a golden run', async () => {
    expect((await observe({ wanted: 'golden' })).newVm).toEqual(CREATED);
  });

  it('ends as soon as all is well after a recovery', async () => {
    const { vms, newVm, tookMs } = await observe({ guard: failsAt(100) });
    expect(vms.every((vm) => vm.alive && vm.intact)).toBe(true);
    expect(newVm).toEqual(CREATED);
    expect(tookMs).toBeLessThan(1000);
  });

  it('does not take a step before the failure for one after it', async () => {
    // Seen at 10 steps before the failure, and at 12 when the machine ran on.
    const { vms } = await observe({ guard: failsAt(160), dom0: (ms) => (ms < 155 ? 10 : 12 + Math.floor(ms / 50)) });
    expect(vms[0]).toMatchObject({ alive: true, intact: true });
  });

  it('waits to the limit for a VM that does not come back', async () => {
    const { vms, tookMs } = await observe({ guard: failsAt(100), app1: (ms) => Math.min(steady(ms), 11) });
    expect(vms[1]).toMatchObject({ name: 'app1', alive: false });
    expect(tookMs).toBeGreaterThanOrEqual(1200);
  });

  it('does not have a new VM created by a dom0 that does not work', async () => {
    const { newVm, created } = await observe({ guard: failsAt(100), dom0: (ms) => Math.min(steady(ms), 11) });
    expect(created).toBe(0);
    expect(newVm).toMatchObject({ kind: 'failed', reason: 'dom0 is not there to create it' });
  });

  it('gives a fault that nothing detects its time, and tells who is hurt', async () => {
    const { vms, tookMs, created } = await observe({ app1: () => 10 });
    expect(vms[1]).toMatchObject({ alive: false });
    expect(tookMs).toBeGreaterThanOrEqual(1200);
    expect(created).toBe(0);
  });

  it('ends at once when the machine is lost', async () => {
    const { seen, tookMs } = await observe({
      guard: async (note) => {
        await sleep(50);
        note({ kind: 'failure', failure });
        note({ kind: 'not-recovered', failure, why: 'QEMU stopped the machine: reset' });
        throw new NinelivesError('NL_QEMU_EXITED', 'the machine cannot go on');
      },
    });
    expect(seen.lost).toBe('QEMU stopped the machine: reset');
    expect(tookMs).toBeLessThan(600);
  });

  it('gives up a hypervisor that fails again and again after each recovery', async () => {
    const { seen, tookMs } = await observe({
      app1: () => 10,
      guard: async (note, stopped) => {
        while (!stopped()) {
          note({ kind: 'failure', failure: { ...failure, detectedAtMs: performance.now() } });
          note(recovered);
          await sleep(100);
        }
      },
    });
    expect(seen.lost).toMatch(/^it failed \d+ times, and did not come to an end: BUG at x$/);
    expect(tookMs).toBeLessThan(3500);
  });

  it('takes a planner that breaks on damaged state for a failure of the target', async () => {
    const { seen } = await observe({
      guard: async (note) => {
        note({ kind: 'failure', failure });
        await Promise.reject(new RangeError('offset is out of bounds'));
      },
    });
    expect(seen.lost).toBe('the recovery could not be planned: offset is out of bounds');
  });

  it('takes a lost link for a failure of ours', async () => {
    const lost = new NinelivesError('NL_STUB_LOST', 'the stub is gone');
    await expect(observe({ guard: () => Promise.reject(lost) })).rejects.toBe(lost);
  });
});
