import { beforeEach, describe, expect, it } from 'vitest';
import { timers } from '../../../src/recover/microreset/timers.js';
import { fixBeginnings, goOnFromToldTime, pullTimers } from '../../../src/recover/microreset/told-time.js';
import type { Step } from '../../../src/recover/step.js';
import { timerQueue } from '../../../src/xen/timers.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const S = 1_000_000_000n;
/** The right time. */
const NOW = 20n * S;
const DAY_S = 86_400n;

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  for (const cpu of [0, 1]) {
    fake.set('cpu_time', clock(cpu), 'stamp.local_stime', NOW);
    fake.set('cpu_time', clock(cpu), 'stamp.master_stime', NOW);
  }
  fake.put(fake.symbol('stime_platform_stamp'), 8, NOW);
  fake.put(fake.symbol('wc_sec'), 8, 1_800_000_000);
  fake.put(fake.symbol('wc_nsec'), 4, 500);
  tell(fake.dom0.address, 20n);
  tell(fake.hvm.address, 19n);
});

const clock = (cpu: number): bigint => fake.perCpu('cpu_time', cpu);
const tell = (vcpu: bigint, seconds: bigint): void =>
  fake.set('vcpu_info', fake.get('vcpu', vcpu, 'vcpu_info'), 'time.system_time', seconds * S);
const stepOf = (run: Step['run']): Step => ({ name: 'system-time', removes: '', source: '', run });
const goOn = (furthestS: bigint) =>
  planWith(
    fake,
    stepOf((context) => {
      goOnFromToldTime(context, NOW, furthestS * S);
    }),
  );

describe('time that guests were told', () => {
  it('is where the clocks of all CPUs and of the platform go on, and the time of day stays what it was', () => {
    tell(fake.dom0.address, 1082n);
    tell(fake.hvm.address, 611n);
    const { after, findings } = goOn(1080n);
    const right = 1082n * S;
    for (const cpu of [0, 1]) {
      const own = after.object('cpu_time', clock(cpu));
      expect([own.i64('stamp.local_stime'), own.i64('stamp.master_stime')]).toEqual([right, right]);
    }
    expect(after.memory.i64(fake.symbol('stime_platform_stamp'))).toBe(right);
    expect(after.memory.u64(fake.symbol('wc_sec'))).toBe(1_800_000_000n - 1062n);
    expect(after.memory.u32(fake.symbol('wc_nsec'))).toBe(500);
    expect(findings).toEqual([
      "Xen's time goes on 1062000 ms ahead, where a guest has it",
      'd0v0 was told a time 1062000 ms ahead',
      'd1v0 was told a time 591000 ms ahead',
    ]);
  });

  it('changes nothing where guests were told the right time, or almost', () => {
    expect(goOn(1080n).writes).toEqual([]);
    tell(fake.dom0.address, 24n);
    expect(goOn(1080n).writes).toEqual([]);
  });

  it('is not believed where a guest claims more than a CPU could have told it', () => {
    tell(fake.dom0.address, 1200n);
    tell(fake.hvm.address, 100n);
    const { after } = goOn(1080n);
    expect(after.object('cpu_time', clock(0)).i64('stamp.local_stime')).toBe(100n * S);
  });

  it('is not known of a vCPU whose record leads nowhere', () => {
    fake.set('vcpu', fake.dom0.address, 'vcpu_info', 0xdead_0000n);
    tell(fake.hvm.address, 100n);
    expect(goOn(1080n).after.object('cpu_time', clock(1)).i64('stamp.local_stime')).toBe(100n * S);
  });

  it('is not followed for more than a day', () => {
    tell(fake.dom0.address, 20n + 2n * DAY_S);
    const { writes, findings } = goOn(3n * DAY_S);
    expect(writes).toEqual([]);
    expect(findings).toEqual([`d0v0 was told a time ${2n * DAY_S}000 ms ahead: its own time stands until then`]);
  });
});

describe('beginnings', () => {
  const fixed = () =>
    planWith(
      fake,
      stepOf((context) => {
        fixBeginnings(context, NOW, 1000n * S);
      }),
    );

  it('of what a unit has to pay for are now where they were noted by a wrong clock, and else what they were', () => {
    const { svc } = fake.dom0;
    for (const [start, expected] of [
      [NOW + S, NOW + 1001n * S],
      [2n * S, NOW + 1000n * S],
      [NOW + 500n * S, NOW + 1000n * S],
    ] as const) {
      fake.set('csched2_unit', svc, 'start_time', start);
      expect(fixed().after.object('csched2_unit', svc).i64('start_time')).toBe(expected);
    }
  });

  it('of runstates are not ahead', () => {
    fake.set('vcpu', fake.dom0.address, 'runstate.state_entry_time', NOW);
    fake.set('vcpu', fake.idle[1]!.address, 'runstate.state_entry_time', NOW + 1100n * S);
    const { after } = fixed();
    const begun = [fake.dom0, fake.idle[1]!].map(({ address }) =>
      after.object('vcpu', address).i64('runstate.state_entry_time'),
    );
    expect(begun).toEqual([NOW, NOW + 1000n * S]);
  });
});

describe('timers that were set by a clock that was ahead', () => {
  const pulled = (aheadS: bigint) =>
    planWith(
      fake,
      stepOf((context) => {
        pullTimers(context, 1, NOW, aheadS * S);
      }),
      timers,
    );

  it('expire at once, before those that are due later', () => {
    const [soon, far] = [fake.newTimer(1, NOW + 2n * S), fake.newTimer(1, NOW + 1001n * S)];
    fake.setHeap(1, [soon, far]);
    const { after, findings } = pulled(1000n);
    expect(timerQueue(after, 1).slots).toEqual([far, soon]);
    expect(after.object('timer', far).i64('expires')).toBe(NOW);
    expect(after.object('timer', soon).i64('expires')).toBe(NOW + 2n * S);
    expect(findings).toContain('CPU 1: 1 timers far ahead expire now');
  });

  it('stay where the clock was hardly ahead, or time has jumped so far', () => {
    fake.setHeap(1, [fake.newTimer(1, NOW + 1001n * S)]);
    expect(pulled(0n).writes).toEqual([]);
    expect(pulled(-10n).writes).toEqual([]);
  });
});
