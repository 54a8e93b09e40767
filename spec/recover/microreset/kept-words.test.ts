import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { keptWords } from '../../../src/recover/microreset/kept-words.js';
import type { Step } from '../../../src/recover/step.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { type KeptWord, keepWords } from '../../../src/xen/kept.js';
import { FakeXen } from '../../support/fake-xen.js';

const WILD = 0xdead_0000n;

let fake: FakeXen;
let kept: readonly KeptWord[];
beforeEach(() => {
  fake = new FakeXen();
  kept = keepWords(fake.xen());
});

function restored(): string[] {
  const xen = fake.xen();
  const facts = { ...readEntryFacts(xen), kept };
  const plan = makePlan({ name: 'test', steps: [keptWords] }, xen, facts, { scope: 'everything' });
  return plan.steps[0]!.findings.slice();
}

describe('kept-words', () => {
  it('finds nothing in a sound Xen', () => {
    expect(kept.length).toBeGreaterThan(10);
    expect(restored()).toEqual([]);
  });

  it('puts a pointer back over what leads nowhere, into code, or to a stack', () => {
    const info = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    for (const wild of [0x9en, 0xff83_0238_4469_c000n, fake.symbol('do_sched_op'), fake.frame(0) - 64n]) {
      fake.set('vcpu', fake.dom0.address, 'vcpu_info', wild);
      expect(restored()).toEqual(['d0v0: vcpu_info was damaged']);
    }
    expect(kept.find(({ what }) => what === 'd0v0: vcpu_info')!.value).toBe(info);
  });

  it('leaves another pointer alone: guests move their areas', () => {
    fake.set('vcpu', fake.dom0.address, 'vcpu_info', fake.alloc(64));
    expect(restored()).toEqual([]);
  });

  it('puts back any other value in a table that never changes', () => {
    const handler = fake.symbol('softirq_handlers') + 8n * 5n;
    fake.put(handler, 8, fake.symbol('timer_softirq_action') - 1n);
    expect(restored()).toEqual(['softirq_handlers[5] was damaged']);
  });

  it('puts back the controller of an interrupt line over a pointer to anything else, and leaves another controller', () => {
    const lines = fake.alloc(2 * fake.profile.struct('irq_desc').size);
    fake.put(fake.symbol('irq_desc'), 8, lines);
    fake.put(fake.symbol('nr_irqs'), 4, 2);
    fake.set('irq_desc', lines, 'handler', fake.symbol('ioapic_edge_type'));
    kept = keepWords(fake.xen());
    fake.set('irq_desc', lines, 'handler', fake.symbol('irq_stat'));
    expect(restored()).toEqual(['IRQ 0: handler was damaged']);
    fake.set('irq_desc', lines, 'handler', fake.symbol('no_irq_type'));
    expect(restored()).toEqual([]);
  });

  describe('of a guest’s interrupt', () => {
    let pirq: bigint;
    let slot: bigint;
    beforeEach(() => {
      ({ pirq, slot } = fake.newGuestLine(10, 70));
      kept = keepWords(fake.xen());
    });

    it('puts the pointer back over one that leads nowhere, beside it, or to another', () => {
      const other = fake.new('pirq');
      fake.set('pirq', other, 'pirq', 71);
      for (const wild of [WILD, pirq | 0xffn, other]) {
        fake.put(slot, 8, wild);
        expect(restored()).toEqual(['d0: interrupt 70 was damaged']);
      }
    });

    it('believes a new one, and one that was given up', () => {
      const anew = fake.new('pirq');
      fake.set('pirq', anew, 'pirq', 70);
      for (const value of [anew, 0n]) {
        fake.put(slot, 8, value);
        expect(restored()).toEqual([]);
      }
    });

    it('puts back the roots of the trees that lead there, unless they are those of others', () => {
      for (const field of ['pirq_tree.rnode', 'arch.irq_pirq.rnode']) {
        const root = fake.fieldAt('domain', fake.dom0.domain, field);
        const right = fake.xen().memory.u64(root);
        for (const wild of [WILD, right ^ 1n, right ^ 0x80n, right ^ (1n << 40n)]) {
          fake.put(root, 8, wild);
          expect(restored()).toEqual([`d0: ${field} was damaged`]);
        }
        fake.put(root, 8, right);
      }
      fake.newGuestLine(10, 70);
      expect(restored()).toEqual([]);
    });

    it('does not touch a tree that has become another', () => {
      fake.newGuestLine(10, 70);
      fake.put(slot, 8, WILD);
      expect(restored()).toEqual([]);
    });
  });

  it('lets the steps after it see what it put back', () => {
    const right = fake.get('vcpu', fake.dom0.address, 'vcpu_info');
    fake.set('vcpu', fake.dom0.address, 'vcpu_info', WILD);
    const seen: bigint[] = [];
    const look: Step = {
      ...keptWords,
      name: 'look',
      run: ({ situation }) => {
        for (const { vcpus } of situation.domains) for (const { object } of vcpus) seen.push(object.u64('vcpu_info'));
      },
    };
    const xen = fake.xen();
    makePlan({ name: 'test', steps: [keptWords, look] }, xen, { ...readEntryFacts(xen), kept });
    expect(seen).toContain(right);
    expect(seen).not.toContain(WILD);
  });

  it('does not touch the memory of a domain that is gone', () => {
    fake.set('vcpu', fake.hvm.address, 'vcpu_info', 0x9e);
    fake.set('domain', fake.hvm.domain, 'domain_id', 7);
    expect(restored()).toEqual([]);
  });
});
