import { beforeEach, describe, expect, it } from 'vitest';
import { isWithoutTicks, LostTickWatch, type TickSample, TickSampler } from '../../src/detect/lost-ticks.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeXen } from '../support/fake-xen.js';

const EVERY_MS = 25;
const OWN_THREADS = [11, 12];

type At = (ms: number) => TickSample;

/** Feeds a watch; gives when it suspected which CPU. @param freezeMs how often the machine is frozen, after a suspicion of others */
function watch(cpus: readonly At[], forMs: number, threads = OWN_THREADS, freezeMs = Number.POSITIVE_INFINITY) {
  const ticks = new LostTickWatch(threads);
  const found: { ms: number; cpu: number; stalledMs: number }[] = [];
  for (let ms = 0; ms <= forMs; ms += EVERY_MS) {
    const samples = cpus.map((cpu) => cpu(ms));
    const lost = ticks.observe(samples, ms);
    if (lost !== undefined) found.push({ ms, cpu: lost.cpu, stalledMs: lost.stalledMs });
    if (ms > 0 && ms % freezeMs === 0) ticks.pause();
  }
  return found;
}

/** In a guest, and interrupted every 10 ms of its own time. */
const healthy: At = (ms) => ({ runsGuest: true, ticks: `${Math.floor(ms / 10)}`, ranMs: ms });
/** In a guest, and interrupted ten times a second only. */
const stands: At = (ms) => ({ runsGuest: true, ticks: `${Math.floor(ms / 100)}`, ranMs: ms });
/** With a share of the host, and without ticks for a quarter of each second: its time falls back when it is calibrated. */
const fallsBack =
  (share: number): At =>
  (ms) => ({ ...healthy(ms), ranMs: share * ms, ...(ms % 1000 < 240 ? { ticks: `${Math.floor(ms / 1000)} s` } : {}) });

describe('LostTickWatch', () => {
  it('suspects a CPU that runs a guest and has no ticks', () => {
    expect(watch([healthy, stands], 1000)[0]).toEqual({ ms: 375, cpu: 1, stalledMs: 375 });
  });

  it('leaves one that has no ticks at all to the watch for hangs', () => {
    expect(watch([healthy, (ms) => ({ ...stands(ms), ticks: 'none' })], 20_000)).toEqual([]);
  });

  it('suspects one that lost ticks a while ago as well, is frozen in between, and gets a sixth of the host', () => {
    expect(watch([healthy, fallsBack(1 / 3)], 10_000, OWN_THREADS, 800)[0]).toMatchObject({ ms: 1225, cpu: 1 });
    expect(watch([healthy, fallsBack(1 / 6)], 10_000, OWN_THREADS, 800)[0]).toMatchObject({ ms: 5225, cpu: 1 });
  });

  it('lets be CPUs with ticks, those that are idle, and those that do not run', () => {
    expect(watch([healthy, (ms) => ({ ...healthy(ms), ticks: `${Math.floor(ms / 60)}` })], 20_000)).toEqual([]);
    expect(watch([healthy, (ms) => ({ ...stands(ms), runsGuest: false })], 20_000)).toEqual([]);
    expect(watch([healthy, (ms) => ({ ...stands(ms), ranMs: 0 })], 20_000)).toEqual([]);
  });

  it('lets be a host that was late now and then', () => {
    const late: At = (ms) => ({ ...healthy(ms), ticks: ms % 6000 < 125 ? `late ${Math.floor(ms / 6000)}` : `${ms}` });
    expect(watch([healthy, late], 60_000)).toEqual([]);
  });

  it('wants as many stretches again for the next suspicion', () => {
    const [first, second] = watch([stands], 2000).map(({ ms }) => ms);
    expect(second! - first!).toBeGreaterThanOrEqual(4 * 30);
  });

  it('does not judge CPUs that share a thread, where QEMU counts instructions', () => {
    expect(watch([healthy, stands], 20_000, [11, 11])).toEqual([]);
  });
});

describe('in memory', () => {
  let fake: FakeXen;
  beforeEach(() => {
    fake = new FakeXen();
    fake.put(fake.perCpu('timer_deadline', 1), 8, 500);
    fake.put(fake.perCpu('irq_count', 1), 4, 9);
  });
  const sampled = (): TickSample[] => new TickSampler(fake.xen()).cpus([{ ranMs: 1 }, { ranMs: 2 }]);
  /** Whether what is suspected is so after something has happened. */
  const isSoAfter = (happens: () => void): boolean => {
    const { ticks } = sampled()[1]!;
    happens();
    const xen = fake.xen();
    const state = readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[1]!;
    return isWithoutTicks(xen, { cpu: 1, ticks, stalledMs: 1000 }, state);
  };
  const schedulerData = (): bigint =>
    fake.get('scheduler', fake.get('sched_resource', fake.resources[1]!, 'scheduler'), 'sched_data');

  it('samples which CPUs run guests, and what changes with a tick', () => {
    fake.run(0, fake.idle[0]!);
    const [first, second] = sampled();
    expect([first, second]).toMatchObject([
      { runsGuest: false, ranMs: 1 },
      { runsGuest: true, ranMs: 2 },
    ]);
    const changed = [
      () => fake.put(fake.perCpu('timer_deadline', 1), 8, 501),
      () => fake.put(fake.perCpu('irq_count', 1), 4, 10),
      () => fake.run(1, fake.dom0),
    ].map((change) => {
      change();
      return sampled()[1]!.ticks;
    });
    expect(new Set([second!.ticks, ...changed]).size).toBe(4);
  });

  it('bears a suspicion out wherever the CPU stands', () => {
    expect(isSoAfter(() => {})).toBe(true);
    expect(isSoAfter(() => fake.enterXen(1, 'do_set_timer_op'))).toBe(true);
  });

  it('does not where there was a tick, or one is on its way', () => {
    expect(isSoAfter(() => fake.put(fake.perCpu('irq_count', 1), 4, 10))).toBe(false);
    expect(isSoAfter(() => fake.put(fake.perCpu('timer_deadline', 1), 8, 501))).toBe(false);
    fake.requested[1] = [0x20];
    expect(isSoAfter(() => {})).toBe(true);
    fake.requested[1] = [0x20, 0xfa];
    expect(isSoAfter(() => {})).toBe(false);
  });

  it('does not where the CPU has become idle', () => {
    expect(isSoAfter(() => fake.run(1, fake.idle[1]!))).toBe(false);
  });

  it('does not where the scheduler lets a vCPU run on, or is none that we know, or has CPUs in groups', () => {
    fake.set('csched2_private', schedulerData(), 'ratelimit_us', 1000);
    expect(isSoAfter(() => {})).toBe(true);
    fake.set('csched2_private', schedulerData(), 'ratelimit_us', 100_000);
    expect(isSoAfter(() => {})).toBe(false);
    fake.set('csched2_private', schedulerData(), 'ratelimit_us', 0);
    fake.set('sched_resource', fake.resources[1]!, 'granularity', 2);
    expect(isSoAfter(() => {})).toBe(false);
    fake.set('sched_resource', fake.resources[1]!, 'granularity', 1);
    const name = fake.get('scheduler', fake.get('sched_resource', fake.resources[1]!, 'scheduler'), 'opt_name');
    fake.putBytes(name, Buffer.from('null\0'));
    expect(isSoAfter(() => {})).toBe(false);
  });
});
