import { beforeEach, describe, expect, it } from 'vitest';
import { interruptHandlers } from '../../../src/recover/microreset/interrupt-handlers.js';
import { FakeXen } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const VECTOR = 0x39;
let fake: FakeXen;
let lines: bigint;
beforeEach(() => {
  fake = new FakeXen();
  lines = fake.alloc(4 * fake.profile.struct('irq_desc').size);
  fake.put(fake.symbol('irq_desc'), 8, lines);
  fake.put(fake.symbol('nr_irqs'), 4, 4);
});

const sent = ({ plan }: Outcome): unknown[] =>
  plan.edits.flatMap((edit) => (edit.kind === 'call' ? [[edit.cpu, edit.function, ...edit.arguments]] : []));

/** CPU 0 entered Xen by an interrupt whose handler is under way. */
function inHandler(): void {
  fake.enterXen(0, 'do_IRQ');
  fake.setFrame(0, { entry_vector: VECTOR, cs: 0xe033 });
  fake.setSlot(0, fake.symbol('common_interrupt') + 5n);
}

describe('interrupt-handlers', () => {
  it('has an interrupt handled again that was acknowledged and whose handler was dropped', () => {
    inHandler();
    expect(sent(planWith(fake, interruptHandlers))).toEqual([[0, 'send_IPI_self', BigInt(VECTOR)]]);
  });

  it('leaves one that is still in service to the step for those', () => {
    inHandler();
    fake.inService[0]!.push(VECTOR);
    expect(sent(planWith(fake, interruptHandlers))).toEqual([]);
  });

  it('sends nothing when the CPU had come back from the handler', () => {
    inHandler();
    fake.enterXen(0, 'do_sched_op', 0);
    expect(sent(planWith(fake, interruptHandlers))).toEqual([]);
  });

  it('sends nothing for a system call that a guest made by an interrupt instruction', () => {
    inHandler();
    fake.setFrame(0, { entry_vector: 0x80, cs: 0xe033 });
    expect(sent(planWith(fake, interruptHandlers))).toEqual([]);
  });

  it('frees a line that was being handled, and leaves its other marks', () => {
    inHandler();
    const second = lines + BigInt(fake.profile.struct('irq_desc').size);
    fake.set('irq_desc', second, 'status', 0x11);
    const outcome = planWith(fake, interruptHandlers);
    expect(outcome.after.object('irq_desc', second).num('status')).toBe(0x10);
    expect(outcome.plan.steps[0]!.findings).toContain('interrupt line 1 was being handled');
  });
});
