import { beforeEach, describe, expect, it } from 'vitest';
import { isOnItsWay, NoReturnWatch, type ReturnSample, ReturnSampler } from '../../src/detect/no-return.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { type FakeVcpu, FakeXen } from '../support/fake-xen.js';

const EVERY_MS = 25;
const OWN_THREADS = [11, 12];

type At = (ms: number) => ReturnSample;

/** Feeds a watch; gives when it suspected which CPU. @param freezeMs how often the machine is frozen, after a suspicion of others */
function watch(cpus: readonly At[], forMs: number, threads = OWN_THREADS, freezeMs = Number.POSITIVE_INFINITY) {
  const returns = new NoReturnWatch(threads);
  const found: { ms: number; cpu: number; stalledMs: number }[] = [];
  for (let ms = 0; ms <= forMs; ms += EVERY_MS) {
    const away = returns.observe(
      cpus.map((cpu) => cpu(ms)),
      ms,
    );
    if (away !== undefined) found.push({ ms, cpu: away.cpu, stalledMs: away.stalledMs });
    if (away !== undefined || (ms > 0 && ms % freezeMs === 0)) returns.pause();
  }
  return found;
}

/** On its way to another guest, or with other registers, at each look. */
const healthy: At = (ms) => ({ wayOut: `${ms}`, ranMs: ms, waitedMs: 0 });
const away: At = (ms) => ({ wayOut: 'the same', ranMs: ms, waitedMs: 0 });
const idle: At = () => ({ wayOut: undefined, ranMs: 0, waitedMs: 0 });
/** With a share of the host. */
const sharing =
  (share: number, cpu: At): At =>
  (ms) => ({ ...cpu(ms), ranMs: share * ms, waitedMs: (1 - share) * ms });

describe('NoReturnWatch', () => {
  it('suspects a CPU that has been on the same way to its guest for a second', () => {
    expect(watch([healthy, away], 4000)).toEqual([{ ms: 1000, cpu: 1, stalledMs: 1000 }]);
    expect(watch([idle, away], 4000)).toEqual([{ ms: 1000, cpu: 1, stalledMs: 1000 }]);
  });

  it('suspects it when it has executed for half a second, however small its share of the host', () => {
    expect(watch([sharing(0.3, healthy), sharing(0.2, away)], 4000)[0]).toMatchObject({ ms: 2500, cpu: 1 });
    expect(watch([healthy, sharing(0.01, away)], 20_000)).toEqual([]);
  });

  it('lets be a CPU whose guest came back, or went on with other registers, within a second', () => {
    expect(
      watch([healthy, (ms) => ({ ...away(ms), wayOut: ms % 1000 === 0 ? undefined : 'the same' })], 20_000),
    ).toEqual([]);
    expect(watch([healthy, (ms) => ({ ...away(ms), wayOut: `${Math.floor(ms / 950)}` })], 20_000)).toEqual([]);
    expect(watch([healthy, (ms) => ({ ...away(ms), wayOut: undefined })], 20_000)).toEqual([]);
  });

  it('lets be a CPU while the host lets another one wait', () => {
    expect(watch([sharing(0.005, healthy), away], 20_000)).toEqual([]);
    expect(watch([sharing(0.05, healthy), away], 4000)[0]).toMatchObject({ cpu: 1 });
  });

  it('begins anew when the machine was frozen', () => {
    expect(watch([healthy, away], 20_000, OWN_THREADS, 900)).toEqual([]);
  });

  it('suspects one that was not so again after five seconds only, and another one before', () => {
    expect(watch([healthy, away], 12_000).map(({ ms }) => ms)).toEqual([1000, 6000, 11_000]);
    expect(watch([away, away], 3000).map(({ ms, cpu }) => [ms, cpu])).toEqual([
      [1000, 0],
      [2025, 1],
    ]);
  });

  it('does not judge CPUs that share a thread, where QEMU counts instructions', () => {
    expect(watch([healthy, away], 20_000, [11, 11])).toEqual([]);
  });
});

describe('in memory', () => {
  let fake: FakeXen;
  const after = (name: string): bigint => fake.symbol(name) + 5n;
  beforeEach(() => {
    fake = new FakeXen();
    fake.setFrame(0, { rip: 0xffff_ffff_8100_0022n, cs: 0xe033, ss: 0xe02b, rax: 0, entry_vector: 0x100 });
    fake.setSlot(0, after('continue_pv_domain'));
    fake.enterXen(0, '__do_softirq');
  });
  const sampled = (): ReturnSample[] => {
    const xen = fake.xen();
    const times = { ranMs: 1, waitedMs: 2 };
    return new ReturnSampler(xen, readEntryFacts(xen)).cpus([times, times]);
  };
  /** Whether what is suspected is so after something has happened. */
  const isSoAfter = (happens: () => void): boolean => {
    const wayOut = sampled()[0]!.wayOut!;
    happens();
    const xen = fake.xen();
    const facts = readEntryFacts(xen);
    const state = readSituation(xen, facts, listDomains(xen)).cpus[0]!;
    return isOnItsWay(xen, facts, { cpu: 0, wayOut, stalledMs: 1000 }, state);
  };

  it('samples to whom a CPU is on its way, and how', () => {
    const other: FakeVcpu = { ...fake.dom0, address: fake.hvm.address };
    const changes = [
      () => {},
      () => fake.setFrame(0, { rax: 1 }),
      () => fake.setFrame(0, { ss: 0 }),
      () => fake.setSlot(0, after('process_softirqs')),
      () => fake.run(0, other),
    ];
    const ways = changes.map((change) => {
      change();
      return sampled()[0]!.wayOut;
    });
    expect(ways).not.toContain(undefined);
    expect(new Set(ways).size).toBe(changes.length);
    expect(sampled()[0]).toMatchObject({ ranMs: 1, waitedMs: 2 });
  });

  it('samples nothing of a CPU that is on its way in, or delivers something, or is idle', () => {
    for (const name of ['lstar_enter', 'common_interrupt', 'handle_exception_saved', 'test_guest_events']) {
      fake.setSlot(0, after(name));
      expect(sampled()[0]!.wayOut, name).toBeUndefined();
    }
    fake.setSlot(0, after('process_softirqs'));
    fake.run(0, fake.idle[0]!);
    expect(sampled()[0]!.wayOut).toBeUndefined();
  });

  it('bears a suspicion out while the CPU is in that call', () => {
    expect(isSoAfter(() => {})).toBe(true);
    expect(isSoAfter(() => fake.enterXen(0, 'timer_softirq_action', 0x400))).toBe(true);
  });

  it('does not where the CPU is in its guest, or between two calls, or on its way in', () => {
    expect(isSoAfter(() => fake.enterXen(0, 'lstar_enter', 0))).toBe(false);
    fake.enterXen(0, '__do_softirq');
    expect(isSoAfter(() => fake.setSlot(0, after('common_interrupt')))).toBe(false);
    fake.setSlot(0, after('continue_pv_domain'));
    expect(isSoAfter(() => Object.assign(fake.registers(0), { cs: 0xe033, rip: 0xffff_ffff_8100_0022n }))).toBe(false);
  });

  it('does not where the guest has other registers, or another guest’s turn has come', () => {
    expect(isSoAfter(() => fake.setFrame(0, { rip: 0xffff_ffff_8100_0044n }))).toBe(false);
    expect(isSoAfter(() => fake.run(0, fake.idle[0]!))).toBe(false);
  });
});
