import { beforeEach, describe, expect, it } from 'vitest';
import { pendingEoisStep } from '../../../src/recover/microreset/pending-eois.js';
import { pendingEois } from '../../../src/xen/interrupts.js';
import { TIMER_STATUS } from '../../../src/xen/timers.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const VECTOR = 0x68;
const OTHER = 0x70;
const IRQ = 1;
const PIRQ = 70;
const COUNT_SLOT = 207;

let fake: FakeXen;
let action: bigint;
let waiting: bigint;
let pirq: bigint;
beforeEach(() => {
  fake = new FakeXen();
  ({ action, pirq } = fake.newGuestLine(IRQ, PIRQ));
  waiting = fake.alloc(32);
  fake.set('irq_guest_action_t', action, 'cpu_eoi_map', waiting);
  fake.set('irq_guest_action_t', action, 'ack_type', 2);
});

const slot = (cpu: number, n: number): bigint =>
  fake.xen().perCpu('pending_eoi', cpu) + BigInt(n * fake.profile.struct('pending_eoi').size);

function note(cpu: number, vectors: readonly number[], count = vectors.length): void {
  for (const [n, vector] of vectors.entries()) fake.put(slot(cpu, n), 4, (vector << 24) | (IRQ << 1));
  fake.put(slot(cpu, COUNT_SLOT), 4, (count << 24) >>> 0);
}

const left = (cpu: number): number[] =>
  pendingEois(planWith(fake, pendingEoisStep).after, cpu).map((one) => one.vector);

describe('pending-eois', () => {
  it('forgets the notes of an abandoned CPU, whose interrupts are all acknowledged', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.inService[0]!.push(VECTOR);
    note(0, [VECTOR]);
    expect(left(0)).toEqual([]);
  });

  it('has no line wait for a note that is gone, and leaves those of other CPUs', () => {
    fake.enterXen(0, 'do_sched_op');
    note(0, [VECTOR]);
    note(1, [VECTOR]);
    fake.inService[1]!.push(VECTOR);
    fake.put(waiting, 8, 0b11n);
    expect(planWith(fake, pendingEoisStep).after.memory.u64(waiting)).toBe(0b10n);
  });

  it('keeps what is in service on a CPU that goes on, once', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.inService[1]!.push(VECTOR);
    note(1, [OTHER, VECTOR, VECTOR]);
    fake.put(waiting, 8, 0b10n);
    expect(left(1)).toEqual([VECTOR]);
    expect(planWith(fake, pendingEoisStep).after.memory.u64(waiting)).toBe(0b10n);
  });

  it('counts the guests that are marked: a handler was dropped between mark and count', () => {
    fake.enterXen(0, 'do_IRQ');
    fake.set('pirq', pirq, 'masked', 1);
    const { after, findings } = planWith(fake, pendingEoisStep);
    expect(after.object('irq_guest_action_t', action).num('in_flight')).toBe(1);
    expect(findings).toEqual(['IRQ 1 waits for 1 guest']);
  });

  it('counts none where none is marked', () => {
    fake.enterXen(0, 'do_IRQ');
    fake.set('irq_guest_action_t', action, 'in_flight', 255);
    expect(planWith(fake, pendingEoisStep).after.object('irq_guest_action_t', action).num('in_flight')).toBe(0);
  });

  it('has a guest acknowledge again that was dropped while it did, and leaves one alone that has not begun', () => {
    fake.enterXen(0, 'do_physdev_op');
    fake.inService[1]!.push(VECTOR);
    note(1, [VECTOR]);
    fake.put(waiting, 8, 0b10n);
    fake.set('irq_guest_action_t', action, 'in_flight', 1);
    const { after, findings } = planWith(fake, pendingEoisStep);
    expect(findings).toEqual(['IRQ 1 is not acknowledged yet']);
    expect(after.object('pirq', pirq).bool('masked')).toBe(true);
    fake.set('pirq', pirq, 'masked', 1);
    expect(planWith(fake, pendingEoisStep).writes).toEqual([]);
  });

  it('has a line that waits for a guest looked after, by its timer', () => {
    fake.enterXen(0, 'do_IRQ');
    fake.set('pirq', pirq, 'masked', 1);
    fake.set('irq_guest_action_t', action, 'eoi_timer.status', TIMER_STATUS.inactive);
    const timer = fake.fieldAt('irq_guest_action_t', action, 'eoi_timer');
    const calls = () => planWith(fake, pendingEoisStep).calls;
    expect(calls()).toMatchObject([{ cpu: 0, function: 'set_timer', arguments: [timer, 1n] }]);
    fake.set('irq_guest_action_t', action, 'eoi_timer.status', TIMER_STATUS.inHeap);
    expect(calls()).toEqual([]);
  });

  it('survives a count that leads out of the stack', () => {
    fake.enterXen(0, 'do_sched_op');
    note(0, [], 226);
    expect(left(0)).toEqual([]);
  });
});
