import { beforeEach, describe, expect, it } from 'vitest';
import {
  type CpuSample,
  DEFAULT_LIMITS,
  HangWatch,
  progressWords,
  type Suspicion,
  sampleProgress,
} from '../../src/detect/watchdog.js';
import { FakeXen } from '../support/fake-xen.js';

const EVERY_MS = 25;

/** What a CPU does in one period of the watchdog. */
interface Period {
  readonly progress?: 'yes' | 'no';
  /** Share of the period that its thread ran, and that it waited for the host. 0 to 1. */
  readonly ran?: number;
  readonly waited?: number;
  readonly pending?: 'yes' | 'no';
}

/** Feeds a watch with CPUs that do the same in every period; gives the first suspicion and when it came. */
function watch(cpus: readonly Period[], forMs = 1000): { atMs: number; suspected: Suspicion[] } | undefined {
  const hang = new HangWatch();
  for (let atMs = 0; atMs <= forMs; atMs += EVERY_MS) {
    const samples = cpus.map(
      ({ progress = 'yes', ran = 1, waited = 0, pending = 'no' }): CpuSample => ({
        progress: progress === 'yes' ? String(atMs) : 'same',
        softirqPending: pending === 'yes',
        ranMs: ran * atMs,
        waitedMs: waited * atMs,
      }),
    );
    const suspected = hang.observe(samples, atMs);
    if (suspected.length > 0) return { atMs, suspected };
  }
  return undefined;
}

const SPINS: Period = { progress: 'no' };
const WORKS: Period = {};

describe('HangWatch', () => {
  it('suspects a CPU that runs and gets nothing done, in time for a second look within 300 ms', () => {
    const { atMs, suspected } = watch([WORKS, SPINS])!;
    expect(suspected).toEqual([{ cpu: 1, stalledMs: atMs }]);
    expect(atMs).toBeGreaterThanOrEqual(DEFAULT_LIMITS.passedMs);
    expect(atMs).toBeLessThanOrEqual(250);
  });

  it('never suspects CPUs that get something done', () => {
    expect(watch([WORKS, WORKS], 10_000)).toBeUndefined();
  });

  it('does not suspect a CPU that the host did not let run', () => {
    expect(watch([{ ...SPINS, ran: 0.05, waited: 0.95 }, WORKS], 2000)).toBeUndefined();
  });

  it('does not suspect a CPU that spins while the one it waits for is starved', () => {
    expect(watch([SPINS, { progress: 'no', ran: 0.02, waited: 0.9 }], 1000)).toBeUndefined();
  });

  it('waits longer for a CPU that gets half of the host', () => {
    const { atMs } = watch([{ ...SPINS, ran: 0.5, waited: 0.5 }, WORKS])!;
    expect(atMs).toBeGreaterThanOrEqual(DEFAULT_LIMITS.ranMs * 2);
    expect(atMs).toBeLessThanOrEqual(DEFAULT_LIMITS.ranMs * 2 + EVERY_MS);
  });

  it('suspects a CPU that is halted for good: it does not run and work waits for it', () => {
    expect(watch([WORKS, { progress: 'no', ran: 0, pending: 'yes' }])?.suspected).toMatchObject([{ cpu: 1 }]);
  });

  it('lets an idle CPU be that has nothing to do', () => {
    expect(watch([WORKS, { progress: 'no', ran: 0, pending: 'no' }], 10_000)).toBeUndefined();
  });

  it('counts from the last progress, not from the start', () => {
    const hang = new HangWatch();
    const at = (ms: number, progress: string): Suspicion[] =>
      hang.observe([{ progress, softirqPending: false, ranMs: ms, waitedMs: 0 }], ms);
    expect(at(0, 'a')).toEqual([]);
    expect(at(190, 'b')).toEqual([]);
    expect(at(380, 'b')).toEqual([]);
    expect(at(395, 'b')).toEqual([{ cpu: 0, stalledMs: 205 }]);
  });

  it('begins anew after a reset', () => {
    const hang = new HangWatch();
    const at = (ms: number): Suspicion[] =>
      hang.observe([{ progress: 'x', softirqPending: false, ranMs: ms, waitedMs: 0 }], ms);
    at(0);
    hang.reset();
    expect(at(250)).toEqual([]);
    expect(at(500)).toHaveLength(1);
  });
});

describe('sampleProgress', () => {
  let fake: FakeXen;
  beforeEach(() => {
    fake = new FakeXen();
  });
  const sample = (): CpuSample => {
    const xen = fake.xen();
    return sampleProgress(xen, progressWords(xen)[1]!, { ranMs: 1, waitedMs: 2 });
  };

  it('changes with the CPU’s timer, its vCPU and its softirqs, and with nothing of another CPU', () => {
    const before = sample();
    fake.put(fake.perCpu('timer_deadline', 0), 8, 99);
    fake.put(fake.perCpu('curr_vcpu', 0), 8, 98);
    expect(sample()).toEqual(before);
    fake.put(fake.perCpu('timer_deadline', 1), 8, 99);
    expect(sample().progress).not.toBe(before.progress);
    fake.put(fake.perCpu('timer_deadline', 1), 8, 0);
    fake.put(fake.perCpu('curr_vcpu', 1), 8, 98);
    expect(sample().progress).not.toBe(before.progress);
  });

  it('changes with an interrupt that left nothing to do, and with none that did', () => {
    const stat = fake.symbol('irq_stat') + BigInt(fake.profile.struct('irq_cpustat_t').size);
    const idle = sample();
    fake.put(fake.perCpu('irq_count', 1), 4, 1);
    expect(sample().progress).not.toBe(idle.progress);
    fake.set('irq_cpustat_t', stat, '__softirq_pending', 1);
    const waiting = sample();
    fake.put(fake.perCpu('irq_count', 1), 4, 2);
    expect(sample()).toEqual(waiting);
  });

  it('tells whether softirqs wait', () => {
    expect(sample().softirqPending).toBe(false);
    const stat = fake.symbol('irq_stat') + BigInt(fake.profile.struct('irq_cpustat_t').size);
    fake.set('irq_cpustat_t', stat, '__softirq_pending', 8);
    expect(sample().softirqPending).toBe(true);
  });
});
