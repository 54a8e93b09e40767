import { beforeEach, describe, expect, it } from 'vitest';
import { pauses } from '../../../src/recover/microreset/pauses.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const DOMCTL = 36;

let fake: FakeXen;
let guest: bigint;
beforeEach(() => {
  fake = new FakeXen();
  guest = fake.hvm.domain;
  fake.enterXen(0, 'do_domctl');
});

const setDomain = (fields: Readonly<Record<string, number>>): void => {
  for (const [name, value] of Object.entries(fields)) fake.set('domain', guest, name, value);
};

/** dom0's kernel asks for a domctl on d1, and the thread is inside the function `name`, or not in one that tells. */
function request(command: number, name?: string): void {
  const page = fake.alloc(4096, 4096);
  fake.put(page, 4, command);
  fake.put(page + 8n, 2, 1);
  // The synthetic dom0's page tables map Xen as well, so an address of the direct map is one of its own.
  fake.setHypercall(0, DOMCTL);
  fake.setFrame(0, { rdi: page, rax: DOMCTL });
  const [call] = readEntryFacts(fake.xen()).hypercallReturns;
  fake.setSlot(0, call!);
  if (name === undefined) return;
  const inside = fake.symbol(name) + 0x40n;
  fake.putBytes(inside - 5n, [0xe8, 0, 0, 0, 0]);
  fake.put(fake.frame(0) - 0x100n, 8, inside);
}

function counts(after = planWith(fake, pauses).after): number[] {
  const domain = after.object('domain', guest);
  const vcpu = after.object('vcpu', fake.hvm.address);
  return [domain.num('controller_pause_count'), domain.num('pause_count'), vcpu.num('pause_count')];
}

describe('pauses', () => {
  it('lets run whom a dropped request had paused for its duration', () => {
    setDomain({ pause_count: 1 });
    fake.set('vcpu', fake.hvm.address, 'pause_count', 1);
    const { after, findings } = planWith(fake, pauses);
    expect(counts(after)).toEqual([0, 0, 0]);
    expect(findings).toEqual(['d1 was paused 1 times for 0 reasons', 'd1v0 was paused 1 times for 0 reasons']);
  });

  it('keeps the reasons that are noted elsewhere', () => {
    setDomain({ controller_pause_count: 2, pause_count: 2 });
    fake.set('vcpu', fake.hvm.address, 'paused_for_shutdown', 1);
    fake.set('vcpu', fake.hvm.address, 'vm_event_pause_count', 1);
    fake.set('vcpu', fake.hvm.address, 'pause_count', 2);
    expect(planWith(fake, pauses)).toMatchObject({ findings: [], writes: [] });
  });

  it('keeps who waits in a wait queue', () => {
    const waiting = fake.new('waitqueue_vcpu');
    fake.link(fake.alloc(16), [waiting]);
    fake.set('vcpu', fake.hvm.address, 'waitqueue_vcpu', waiting);
    fake.set('vcpu', fake.hvm.address, 'pause_count', 1);
    expect(planWith(fake, pauses).writes).toEqual([]);
  });

  it('leaves a domain that is being destroyed alone, and the vCPUs of dom0', () => {
    setDomain({ pause_count: 1, is_dying: 1 });
    fake.set('domain', fake.dom0.domain, 'is_privileged', 1);
    fake.set('vcpu', fake.dom0.address, 'pause_count', 1);
    expect(planWith(fake, pauses).writes).toEqual([]);
  });
});

describe("the toolstack's request", () => {
  it.each([
    ['to pause, dropped between its two counts', 3, undefined, { controller_pause_count: 1 }, 0],
    [
      'to pause, dropped after both',
      3,
      'domain_pause_by_systemcontroller',
      { controller_pause_count: 1, pause_count: 1 },
      0,
    ],
    ['to pause, dropped before it began', 3, undefined, {}, 0],
    ['to let run, dropped between its two counts', 4, undefined, { pause_count: 1 }, 1],
    ['to let run, dropped after both', 4, 'domain_unpause_by_systemcontroller', {}, 1],
    ['to let run, dropped before it began', 4, undefined, { controller_pause_count: 1, pause_count: 1 }, 1],
  ] as const)('%s, finds the domain as it was', (_, command, inside, state, before) => {
    setDomain(state);
    request(command, inside);
    expect(counts().slice(0, 2)).toEqual([before, before]);
  });
});

describe('a shutdown', () => {
  it('that was dropped half way begins anew', () => {
    fake.run(0, fake.idle[0]!);
    fake.enterXen(1, 'vcpu_wake');
    const inside = fake.symbol('domain_shutdown') + 0x40n;
    fake.putBytes(inside - 5n, [0xe8, 0, 0, 0, 0]);
    fake.put(fake.frame(1) - 0x100n, 8, inside);
    setDomain({ is_shutting_down: 1 });
    fake.set('vcpu', fake.hvm.address, 'paused_for_shutdown', 1);
    fake.set('vcpu', fake.hvm.address, 'pause_count', 1);
    const { after, findings } = planWith(fake, pauses);
    expect(after.object('domain', guest).bool('is_shutting_down')).toBe(false);
    expect(counts(after)[2]).toBe(0);
    expect(findings[0]).toBe('d1: its shutdown was under way: undone');
  });

  it('that another domain’s thread made of dom0 is dom0’s', () => {
    fake.run(0, fake.idle[0]!);
    fake.enterXen(1, 'vcpu_wake');
    for (const [n, name] of ['hwdom_shutdown', 'domain_shutdown'].entries()) {
      const inside = fake.symbol(name) + 0x40n;
      fake.putBytes(inside - 5n, [0xe8, 0, 0, 0, 0]);
      fake.put(fake.frame(1) - 0x100n + BigInt(8 * n), 8, inside);
    }
    fake.set('domain', fake.dom0.domain, 'is_shutting_down', 1);
    setDomain({ is_shutting_down: 1 });
    const { after } = planWith(fake, pauses);
    expect(after.object('domain', fake.dom0.domain).bool('is_shutting_down')).toBe(false);
    expect(after.object('domain', guest).bool('is_shutting_down')).toBe(true);
  });
});
