import { beforeEach, describe, expect, it } from 'vitest';
import { pendingEoisStep } from '../../../src/recover/microreset/pending-eois.js';
import { pendingEois } from '../../../src/xen/interrupts.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const VECTOR = 0x68;
const OTHER = 0x70;
const IRQ = 1;
const IRQ_GUEST = 0x10;
const COUNT_SLOT = 207;

let fake: FakeXen;
let action: bigint;
let waiting: bigint;
beforeEach(() => {
  fake = new FakeXen();
  const lines = fake.alloc(4 * fake.profile.struct('irq_desc').size);
  fake.put(fake.symbol('irq_desc'), 8, lines);
  fake.put(fake.symbol('nr_irqs'), 4, 4);
  const line = lines + BigInt(IRQ * fake.profile.struct('irq_desc').size);
  action = fake.alloc(fake.profile.struct('irq_guest_action_t').size);
  waiting = fake.alloc(32);
  fake.set('irq_desc', line, 'status', IRQ_GUEST);
  fake.set('irq_desc', line, 'action', action);
  fake.set('irq_guest_action_t', action, 'cpu_eoi_map', waiting);
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

  it('survives a count that leads out of the stack', () => {
    fake.enterXen(0, 'do_sched_op');
    note(0, [], 226);
    expect(left(0)).toEqual([]);
  });
});
