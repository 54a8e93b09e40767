import { beforeEach, describe, expect, it } from 'vitest';
import {
  type IdleSample,
  isNeglected,
  type Neglect,
  NeglectSampler,
  NeglectWatch,
  type VcpuSample,
} from '../../src/detect/neglect.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeXen } from '../support/fake-xen.js';

const EVERY_MS = 25;
const QUIET: IdleSample = {
  idle: true,
  idleSince: 7n,
  hasIdleWork: false,
  softirqs: 0,
  turn: '',
  interrupts: 0,
  progress: '',
  ranMs: 0,
  waitedMs: 0,
};
const WAITS: VcpuSample = { vcpu: 0x1000n, runnable: true, since: 5n, cpu: 1 };

type At<T> = (ms: number) => T;
/** Neither interrupted nor asleep: what a CPU is while it waits for the host, or is in the middle of something. */
let awake: readonly number[] = [];
beforeEach(() => {
  awake = [];
});
const isAsleep = (cpu: number): boolean => !awake.includes(cpu);

/** Feeds a watch; gives the first suspicion and when it came. */
function watch(cpus: readonly At<IdleSample>[], vcpus: readonly At<VcpuSample>[], forMs: number) {
  const neglects = new NeglectWatch();
  for (let ms = 0; ms <= forMs; ms += EVERY_MS) {
    const [first] = neglects.observe(
      cpus.map((cpu) => cpu(ms)),
      vcpus.map((vcpu) => vcpu(ms)),
      ms,
      isAsleep,
    );
    if (first !== undefined) return { ms, first };
  }
  return undefined;
}

/** Idle, and interrupted once a second. */
const idle: At<IdleSample> = (ms) => ({ ...QUIET, interrupts: Math.floor(ms / 1000) });
const works: At<IdleSample> = (ms) => ({ ...QUIET, idle: false, interrupts: ms, progress: `${ms}`, ranMs: ms });
const waits: At<VcpuSample> = () => WAITS;

describe('NeglectWatch, of vCPUs', () => {
  it('suspects a CPU that sleeps although a vCPU could run on it', () => {
    awake = [0];
    expect(watch([works, idle], [waits], 5000)).toMatchObject({
      ms: 200,
      first: { kind: 'vcpu-left-waiting', cpu: 1, vcpu: WAITS, stalledMs: 200 },
    });
  });

  it('lets be a vCPU that waits for a CPU which runs another', () => {
    expect(watch([works, works], [waits], 10_000)).toBeUndefined();
  });

  it('lets be a vCPU that blocks, and one that ran in between', () => {
    expect(watch([works, idle], [() => ({ ...WAITS, runnable: false })], 10_000)).toBeUndefined();
    expect(watch([works, idle], [(ms) => ({ ...WAITS, since: BigInt(ms) })], 10_000)).toBeUndefined();
  });

  it('does not count what the host did: the CPU on its way to the vCPU, or the one that tells it, waits for the host', () => {
    awake = [1];
    expect(watch([works, idle], [waits], 10_000)).toBeUndefined();
    awake = [0];
    expect(watch([() => QUIET, idle], [waits], 10_000)).toBeUndefined();
  });

  it('begins anew after a reset', () => {
    const neglects = new NeglectWatch();
    neglects.observe([works(0), idle(0)], [WAITS], 0, isAsleep);
    neglects.reset();
    expect(neglects.observe([works(1000), idle(1000)], [WAITS], 1000, isAsleep)).toEqual([]);
  });
});

describe('NeglectWatch, of softirqs', () => {
  /** The first raises itself, the others wait. */
  const stuck: At<IdleSample> = (ms) => ({ ...works(ms), softirqs: (ms / EVERY_MS) % 2 === 0 ? 0b1010 : 0b1001 });

  it('suspects a CPU that executes while one of them waits', () => {
    const { ms, first } = watch([works, stuck], [], 1000)!;
    expect(first).toEqual({ kind: 'softirq-left-waiting', cpu: 1, softirqs: 0b1000, stalledMs: ms });
    expect(ms).toBe(200);
  });

  it('lets be those that are handled, and those of a CPU that does not execute', () => {
    const handled: At<IdleSample> = (ms) => ({ ...works(ms), softirqs: 1 << ((ms / EVERY_MS) % 3) });
    expect(watch([handled], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...stuck(ms), ranMs: 0, waitedMs: ms })], [], 10_000)).toBeUndefined();
  });

  it('lets be a CPU whose vCPUs take turns', () => {
    const turns =
      (every: number): At<IdleSample> =>
      (ms) => ({ ...stuck(ms), turn: `${Math.floor(ms / every)}` });
    expect(watch([works, turns(150)], [], 10_000)).toBeUndefined();
    expect(watch([works, turns(300)], [], 10_000)).toMatchObject({ ms: 200 });
  });

  it('leaves a CPU that gets nothing done to the watch for hangs', () => {
    expect(watch([works, (ms) => ({ ...stuck(ms), progress: `${Math.min(ms, 100)}` })], [], 10_000)).toBeUndefined();
  });

  it('does not count what the host did to another CPU', () => {
    const starved: At<IdleSample> = (ms) => ({ ...QUIET, waitedMs: ms });
    expect(watch([starved, stuck], [], 10_000)).toBeUndefined();
  });
});

describe('NeglectWatch, of idle CPUs', () => {
  const busy: At<IdleSample> = (ms) => ({ ...QUIET, progress: `${ms}`, ranMs: ms, interrupts: ms });

  it('suspects an idle CPU that executes all the time', () => {
    expect(watch([works, busy], [], 1000)).toMatchObject({ ms: 200, first: { kind: 'idle-cpu-busy', cpu: 1 } });
  });

  it('waits longer for one that gets a tenth of the host', () => {
    const slow: At<IdleSample> = (ms) => ({
      ...QUIET,
      progress: `${ms}`,
      ranMs: 0.1 * ms,
      waitedMs: 0.9 * ms,
    });
    expect(watch([slow], [], 5000)).toMatchObject({ ms: 1500 });
  });

  it('lets be one that sleeps in between, has work, or ran a vCPU', () => {
    expect(watch([(ms) => ({ ...QUIET, ranMs: ms / 2 })], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...busy(ms), hasIdleWork: true })], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...busy(ms), idleSince: BigInt(Math.floor(ms / 100)) })], [], 10_000)).toBeUndefined();
  });
});

describe('NeglectWatch, of interrupts', () => {
  const holds: At<IdleSample> = (ms) => ({ ...works(ms), inHands: '104 of IRQ 10, 77' });

  it('suspects one that stays in a guest’s hands while its CPU takes others', () => {
    const first = { kind: 'interrupt-left-in-service', cpu: 1, inHands: '104 of IRQ 10, 77', stalledMs: 200 };
    expect(watch([works, holds], [], 1000)).toEqual({ ms: 200, first });
  });

  it('lets be those that change, and a CPU that had no chance to take one back', () => {
    expect(watch([(ms) => ({ ...holds(ms), inHands: `${ms >> 7}` })], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...holds(ms), inHands: ms % 200 === 0 ? undefined : '' })], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...holds(ms), interrupts: 7 })], [], 10_000)).toBeUndefined();
    expect(watch([(ms) => ({ ...holds(ms), progress: '' })], [], 10_000)).toBeUndefined();
  });
});

describe('in memory', () => {
  let fake: FakeXen;
  beforeEach(() => {
    fake = new FakeXen();
    fake.run(1, fake.idle[1]!);
    fake.set('vcpu', fake.hvm.address, 'runstate.state', 1);
    fake.set('vcpu', fake.hvm.address, 'runstate.state_entry_time', 77);
    fake.set('vcpu', fake.hvm.address, 'processor', 1);
  });
  const times = [0, 1].map(() => ({ progress: '', ranMs: 1, waitedMs: 2 }));
  const waiting = (): VcpuSample => ({ vcpu: fake.hvm.address, runnable: true, since: 77n, cpu: 1 });

  it('samples what CPUs do and what vCPUs wait for', () => {
    fake.put(fake.perCpu('tasklet_work_to_do', 0), 8, 1);
    fake.put(fake.perCpu('irq_count', 1), 4, 9);
    fake.set('irq_cpustat_t', fake.symbol('irq_stat'), '__softirq_pending', 8);
    fake.set('vcpu', fake.idle[1]!.address, 'runstate.state_entry_time', 70);
    const sampler = new NeglectSampler(fake.xen());
    expect(sampler.cpus(times)).toMatchObject([
      { idle: false, hasIdleWork: true, softirqs: 8, ranMs: 1, waitedMs: 2 },
      { idle: true, idleSince: 70n, hasIdleWork: false, turn: `${fake.idle[1]!.address} 70`, interrupts: 9 },
    ]);
    expect(sampler.vcpus()).toContainEqual(waiting());
    expect(sampler.vcpus()).toHaveLength(2);
  });

  it('takes a vCPU for one that could run that is said to run', () => {
    fake.set('vcpu', fake.hvm.address, 'runstate.state', 0);
    expect(new NeglectSampler(fake.xen()).vcpus()).toContainEqual(waiting());
  });

  it('takes a vCPU for one that could run whose time has no end and that is parked until it is refilled, but for no other reason', () => {
    const sampled = (): boolean[] =>
      new NeglectSampler(fake.xen())
        .vcpus()
        .flatMap(({ vcpu, runnable }) => (vcpu === fake.hvm.address ? [runnable] : []));
    fake.set('vcpu', fake.hvm.address, 'runstate.state', 3);
    fake.set('vcpu', fake.hvm.address, 'pause_flags', 1n << 8n);
    expect(sampled()).toContain(true);
    const neglect: Neglect = { kind: 'vcpu-left-waiting', cpu: 1, vcpu: waiting(), stalledMs: 200 };
    const xen = fake.xen();
    const [, cpu] = readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus;
    expect(isNeglected(xen, neglect, { ...cpu!, where: 'halted' })).toBe(true);
    fake.set('vcpu', fake.hvm.address, 'pause_flags', (1n << 8n) | 1n);
    expect(sampled()).not.toContain(true);
  });

  it('sees memory that waits to be scrubbed, of any node', () => {
    fake.put(fake.symbol('node_need_scrub') + 8n, 8, 1);
    expect(new NeglectSampler(fake.xen()).cpus(times).every(({ hasIdleWork }) => hasIdleWork)).toBe(true);
  });

  it('tells the interrupt that guests have had longest, by how many its line had', () => {
    const lines = fake.alloc(fake.profile.struct('irq_desc').size);
    fake.put(fake.symbol('irq_desc'), 8, lines);
    fake.put(fake.symbol('nr_irqs'), 4, 1);
    fake.put(fake.perCpu('pending_eoi', 1), 4, 0x6800_0000);
    fake.put(fake.perCpu('pending_eoi', 1) + 4n * 207n, 4, 0x0100_0000);
    const seen = () => new NeglectSampler(fake.xen()).cpus(times).map(({ inHands }) => inHands);
    expect(seen()).toEqual([undefined, undefined]);
    fake.set('irq_desc', lines, 'rl_cnt', 5);
    expect(seen()).toEqual([undefined, '104 of IRQ 0, 5']);
    const neglect = { kind: 'interrupt-left-in-service', cpu: 1, inHands: '104 of IRQ 0, 5', stalledMs: 200 } as const;
    const isSo = (): boolean => {
      const xen = fake.xen();
      return isNeglected(xen, neglect, readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[1]!);
    };
    expect(isSo()).toBe(true);
    fake.set('irq_desc', lines, 'rl_cnt', 6);
    expect(isSo()).toBe(false);
  });

  it('leaves out vCPUs with a cap on their time', () => {
    const sdom = fake.new('csched2_dom');
    fake.set('csched2_dom', sdom, 'cap', 50);
    fake.set('csched2_unit', fake.hvm.svc, 'sdom', sdom);
    expect(new NeglectSampler(fake.xen()).vcpus().map(({ vcpu }) => vcpu)).toEqual([fake.dom0.address]);
  });

  it('bears a suspicion out while the same vCPU waits for the same idle CPU', () => {
    const neglect: Neglect = { kind: 'vcpu-left-waiting', cpu: 1, vcpu: waiting(), stalledMs: 1000 };
    const isSo = (): boolean => {
      const xen = fake.xen();
      return isNeglected(xen, neglect, readSituation(xen, readEntryFacts(xen), listDomains(xen)).cpus[1]!);
    };
    expect(isSo()).toBe(true);
    fake.set('vcpu', fake.hvm.address, 'runstate.state_entry_time', 78);
    expect(isSo()).toBe(false);
    fake.set('vcpu', fake.hvm.address, 'runstate.state_entry_time', 77);
    fake.run(1, fake.hvm);
    expect(isSo()).toBe(false);
  });
});
