import { beforeEach, describe, expect, it } from 'vitest';
import {
  isLeftLate,
  type LateTimer,
  LateTimerWatch,
  leastPace,
  type TimerSample,
  TimerSampler,
} from '../../src/detect/late-timers.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeXen } from '../support/fake-xen.js';

const EVERY_MS = 25;
const MS = 1_000_000n;
const OWN_THREADS = leastPace([11, 12]);
const ONE_THREAD = leastPace([11, 11]);

type At = (ms: number) => TimerSample;
const sample = (expiresMs: number, notedMs: number, ranMs = 0): TimerSample => ({
  first: { timer: 0x1000n, expires: BigInt(expiresMs) * MS },
  notedNs: BigInt(notedMs) * MS,
  ranMs,
});

/** Feeds a watch; gives the suspicions and when they came. */
function watch(cpus: readonly At[], forMs: number, options: { awake?: readonly number[]; pace?: number } = {}) {
  const { awake = [], pace = OWN_THREADS } = options;
  const timers = new LateTimerWatch(pace);
  const found: { ms: number; late: LateTimer }[] = [];
  for (let ms = 0; ms <= forMs; ms += EVERY_MS) {
    const samples = cpus.map((cpu) => cpu(ms));
    const late = timers.observe(samples, ms, (cpu) => !awake.includes(cpu));
    if (late !== undefined) found.push({ ms, late });
  }
  return found;
}

const secondsOf = (ms: number): number => 1000 * Math.floor(ms / 1000);
/** Calibrated once a second, with a timer that is always ahead. */
const healthy: At = (ms) => sample(ms + 10, secondsOf(ms));

describe('LateTimerWatch', () => {
  it('suspects a CPU that sleeps a second after it noted a time later than its first timer', () => {
    const cpu: At = (ms) => sample(500, ms < 500 ? 0 : 510);
    const [first] = watch([healthy, cpu], 3000);
    expect(first).toMatchObject({ ms: 1500, late: { cpu: 1, timer: 0x1000n, expires: 500n * MS, stalledMs: 1000 } });
  });

  it('takes half of what the host counted to have passed since the CPU noted the time', () => {
    expect(watch([healthy, () => sample(500, 0)], 3000)[0]).toMatchObject({ ms: 2000, late: { cpu: 1 } });
  });

  it('lets be timers that are handled, however late, and CPUs that have none', () => {
    expect(watch([healthy], 10_000)).toEqual([]);
    expect(watch([(ms) => sample(Math.floor(ms / 900) * 900, ms)], 10_000)).toEqual([]);
    expect(watch([(ms) => ({ first: undefined, notedNs: BigInt(ms) * MS, ranMs: 0 })], 10_000)).toEqual([]);
  });

  it('lets be a sleeper whose timer is ahead, as its notes tell again and again', () => {
    expect(watch([(ms) => sample(secondsOf(ms) + 5000, secondsOf(ms))], 10_000)).toEqual([]);
    // Its clock was set back: what was reckoned from the earlier note does not count any more.
    expect(watch([(ms) => sample(2000, ms < 500 ? 2100 : secondsOf(ms) / 10)], 10_000)).toEqual([]);
  });

  it('does not reckon with the time of the host where CPUs share a thread', () => {
    expect(watch([() => sample(500, 0), () => sample(500, 400)], 60_000, { pace: ONE_THREAD })).toEqual([]);
    expect(watch([() => sample(500, 510)], 3000, { pace: ONE_THREAD })).not.toEqual([]);
  });

  it('waits while a CPU neither sleeps nor has run', () => {
    const late = (ranMs: number): TimerSample => sample(500, 600, ranMs);
    expect(watch([() => late(0)], 10_000, { awake: [0] })).toEqual([]);
    expect(watch([(ms) => late(ms / 10)], 10_000, { awake: [0] })[0]).toMatchObject({ ms: 1200 });
  });

  it('looks at one that sleeps first, and at each only once a second', () => {
    const late: At = (ms) => sample(500, 600, ms);
    const cpus = watch([late, late], 2500, { awake: [0] }).map(({ ms, late: { cpu } }) => [ms, cpu]);
    expect(cpus).toEqual([
      [1000, 1],
      [1025, 0],
      [2025, 1],
      [2050, 0],
    ]);
  });

  it('keeps over a freeze what it knows, does not count it, and leaves CPUs a while to go on', () => {
    const timers = new LateTimerWatch(OWN_THREADS);
    const look = (ms: number) => timers.observe([sample(500, 600)], ms, () => true);
    for (const ms of [0, 500, 900]) expect(look(ms)).toBeUndefined();
    timers.pause();
    for (const ms of [60_000, 60_099, 60_100]) {
      const found = look(ms);
      if (ms < 60_100) expect(found).toBeUndefined();
      else expect(found).toMatchObject({ cpu: 0, stalledMs: 1000 });
    }
    timers.pause();
    expect(look(90_000)).toBeUndefined();
    timers.pause();
    expect(look(95_000)).toBeUndefined();
  });
});

describe('in memory', () => {
  let fake: FakeXen;
  let timer: bigint;
  let late: LateTimer;
  beforeEach(() => {
    fake = new FakeXen();
    fake.run(1, fake.idle[1]!);
    timer = fake.newTimer(1, 100);
    fake.setHeap(1, [timer, fake.newTimer(1, 200)]);
    late = { cpu: 1, timer, expires: 100n, stalledMs: 1000 };
  });
  const sampled = (): TimerSample[] => new TimerSampler(fake.xen()).cpus([{ ranMs: 1 }, { ranMs: 2 }]);
  const isSo = (): boolean => {
    const xen = fake.xen();
    return isLeftLate(xen, late, readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[1]!);
  };

  it('samples the first timer of a CPU and the later of its two notes of time', () => {
    fake.set('vcpu', fake.idle[0]!.address, 'runstate.state_entry_time', 70);
    fake.set('cpu_time', fake.perCpu('cpu_time', 0), 'stamp.local_stime', 60);
    fake.set('cpu_time', fake.perCpu('cpu_time', 1), 'stamp.local_stime', 80);
    expect(sampled()).toEqual([
      { first: undefined, notedNs: 70n, ranMs: 1 },
      { first: { timer, expires: 100n }, notedNs: 80n, ranMs: 2 },
    ]);
  });

  it('takes what leads nowhere for no timer', () => {
    const heap = fake.get('timers', fake.perCpu('timers', 1), 'heap');
    fake.put(heap + 8n, 8, 0xdead_0000n);
    expect(sampled()[1]!.first).toBeUndefined();
    fake.set('timers', fake.perCpu('timers', 1), 'heap', 0xdead_0000n);
    expect(sampled()[1]!.first).toBeUndefined();
  });

  it('bears a suspicion out of a CPU that waits, or runs a guest, with the same timer', () => {
    expect(isSo()).toBe(true);
    fake.run(1, fake.hvm);
    expect(isSo()).toBe(true);
  });

  it('does not where the CPU is in Xen, or has another timer, or this one again', () => {
    fake.enterXen(1, 'schedule');
    expect(isSo()).toBe(false);
    fake.run(1, fake.hvm);
    fake.set('timer', timer, 'expires', 101);
    expect(isSo()).toBe(false);
    fake.setHeap(1, [fake.newTimer(1, 100)]);
    expect(isSo()).toBe(false);
    fake.setHeap(1, []);
    expect(isSo()).toBe(false);
  });

  it('does not where the interrupt or its softirq is on its way', () => {
    fake.requested[1] = [0x20, 0xfa];
    expect(isSo()).toBe(false);
    fake.requested[1] = [0x20];
    expect(isSo()).toBe(true);
    const xen = fake.xen();
    fake.put(xen.irqStat(1).at('__softirq_pending'), 4, 1 << xen.profile.enumValue('TIMER_SOFTIRQ'));
    expect(isSo()).toBe(false);
  });
});
