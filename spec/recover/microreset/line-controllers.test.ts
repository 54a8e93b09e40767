import { beforeEach, describe, expect, it } from 'vitest';
import { lineControllers } from '../../../src/recover/microreset/line-controllers.js';
import { lineOf } from '../../../src/xen/interrupts.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const LINES = 16;
const IRQ = 10;
const IRQ_GUEST = 0x10;
const ACK = { none: 0, unmask: 1, eoi: 2 } as const;

let fake: FakeXen;
let line: bigint;
let action: bigint;
beforeEach(() => {
  fake = new FakeXen();
  line = fake.newLine(IRQ, LINES);
  action = fake.new('irq_guest_action_t');
  fake.set('irq_desc', line, 'arch.cpu_mask', fake.alloc(32));
  fake.set('irq_desc', line, 'handler', fake.symbol('ioapic_level_type'));
});

function guests(ackType: number, msi: boolean): void {
  fake.set('irq_desc', line, 'status', IRQ_GUEST);
  fake.set('irq_desc', line, 'action', action);
  fake.set('irq_desc', line, 'msi_desc', msi ? fake.alloc(64) : 0n);
  fake.set('irq_guest_action_t', action, 'ack_type', ackType);
}

const damage = (): void => fake.set('irq_desc', line, 'handler', fake.symbol('irq_stat'));

function left(): string | undefined {
  const { after } = planWith(fake, lineControllers);
  const at = lineOf(after, IRQ)!.u64('handler');
  const names = ['no_irq_type', 'ioapic_edge_type', 'ioapic_level_type', 'pci_msi_maskable', 'pci_msi_nonmaskable'];
  return names.find((name) => fake.symbol(name) === at);
}

describe('line-controllers', () => {
  it('leaves any controller of Xen alone, and lines that were never made', () => {
    for (const name of ['ioapic_level_type', 'no_irq_type', 'pci_msi_maskable', 'hpet_msi_type']) {
      fake.set('irq_desc', line, 'handler', fake.symbol(name));
      expect(planWith(fake, lineControllers).writes).toEqual([]);
    }
  });

  it('has a guest’s line handled as the guest acknowledges it', () => {
    const expected = [
      [ACK.eoi, false, 'ioapic_level_type'],
      [ACK.none, false, 'ioapic_edge_type'],
      [ACK.none, true, 'pci_msi_maskable'],
      [ACK.eoi, true, 'pci_msi_nonmaskable'],
    ] as const;
    for (const [ackType, msi, name] of expected) {
      guests(ackType, msi);
      damage();
      expect(left()).toBe(name);
    }
    expect(planWith(fake, lineControllers).findings).toEqual([
      `IRQ ${IRQ}: controller pci_msi_nonmaskable written again`,
    ]);
  });

  it('takes a made line without any for damaged as well', () => {
    guests(ACK.eoi, false);
    fake.set('irq_desc', line, 'handler', 0n);
    expect(left()).toBe('ioapic_level_type');
  });

  it('gives a line that is nobody’s the controller that does nothing', () => {
    damage();
    expect(left()).toBe('no_irq_type');
  });

  it('leaves what nothing tells, and the plan is refused', () => {
    const cases = [
      () => guests(ACK.unmask, false),
      () => {
        fake.set('irq_desc', line, 'status', 0);
        fake.set('irq_desc', line, 'action', fake.new('irqaction'));
      },
    ];
    for (const prepare of cases) {
      prepare();
      damage();
      const { plan, writes } = planWith(fake, lineControllers);
      expect(writes).toEqual([]);
      expect(plan.problems).toEqual([{ step: 'audit', message: `IRQ ${IRQ} would have no controller` }]);
    }
  });

  it('has the plan refused where a guest’s line leads to no guest', () => {
    guests(ACK.eoi, false);
    fake.set('irq_desc', line, 'action', 0xdead_0000n);
    const { plan } = planWith(fake, lineControllers);
    expect(plan.problems).toEqual([{ step: 'audit', message: `IRQ ${IRQ} would lead to no guest` }]);
  });

  it('counts the guests of a line that are listed, and has them acknowledge as its controller does, where the counts were written over', () => {
    guests(ACK.eoi, false);
    const list = fake.fieldAt('irq_guest_action_t', action, 'guest');
    fake.put(list, 8, fake.dom0.domain);
    fake.put(list + 8n, 8, fake.hvm.domain);
    fake.set('irq_guest_action_t', action, 'nr_guests', 1);
    expect(planWith(fake, lineControllers).writes).toEqual([]);
    fake.put(action, 4, 0x4059_b2a0);
    const { after, findings } = planWith(fake, lineControllers);
    expect(findings).toEqual(['IRQ 10: guests and how they acknowledge written again']);
    const repaired = after.object('irq_guest_action_t', action);
    expect(['nr_guests', 'in_flight', 'shareable', 'ack_type'].map((field) => repaired.num(field))).toEqual([
      2,
      0,
      1,
      ACK.eoi,
    ]);
  });
});
