import { beforeEach, describe, expect, it } from 'vitest';
import { domctl } from '../../../src/recover/microreset/domctl.js';
import { pauseCounts } from '../../../src/recover/microreset/pause-counts.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { guestInDirectMap } from '../../../src/xen/guest-memory.js';
import { FakeXen, GUEST_KERNEL } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const DOMCTL = 36;
const ARGUMENT = GUEST_KERNEL + 0x800n;
const [CREATE, PAUSE, UNPAUSE, MAX_VCPUS] = [1, 3, 4, 15] as const;
const NAME = Uint8Array.from({ length: 16 }, (_, n) => n + 1);
let fake: FakeXen;

beforeEach(() => {
  fake = new FakeXen();
});

function argument(): bigint {
  const xen = fake.xen();
  return guestInDirectMap(xen, xen.object('vcpu', fake.dom0.address), ARGUMENT)!;
}

function drop(command: number, domain: number): Outcome {
  fake.set('xen_domctl', argument(), 'cmd', command);
  fake.set('xen_domctl', argument(), 'domain', domain);
  fake.putBytes(fake.fieldAt('xen_domctl', argument(), 'u.createdomain.handle'), NAME);
  fake.setHypercall(0, DOMCTL);
  fake.setFrame(0, { rdi: ARGUMENT });
  fake.enterXen(0, 'do_domctl');
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  return planWith(fake, domctl, pauseCounts, retryHypercalls);
}
const isAnswered = ({ after }: Outcome): boolean => after.object('cpu_user_regs', fake.frame(0)).u64('rax') === 0n;

describe('a domain that is being created', () => {
  /** A domain with nothing in it, in the list after the others. */
  function newDomain(name: Uint8Array): bigint {
    const domain = fake.new('domain');
    fake.set('domain', domain, 'domain_id', 9);
    fake.set('domain', fake.hvm.domain, 'next_in_list', domain);
    fake.putBytes(fake.fieldAt('domain', domain, 'handle'), name);
    return domain;
  }
  const idTold = ({ after }: Outcome): number => after.object('xen_domctl', argument()).num('domain');

  it('is told to the guest when it is in the list', () => {
    newDomain(NAME);
    const outcome = drop(CREATE, 0);
    expect([isAnswered(outcome), idTold(outcome)]).toEqual([true, 9]);
  });

  it('gets the name that was asked for, and is found by its number', () => {
    const domain = newDomain(new Uint8Array(16));
    const { after } = drop(CREATE, 9);
    expect(after.memory.bytes(after.object('domain', domain).at('handle'), 16)).toEqual(NAME);
    expect(after.memory.u64(fake.symbol('domain_hash') + 72n)).toBe(domain);
  });

  it('is created by the retry when there is none, or one of another name, or one in use', () => {
    expect(isAnswered(drop(CREATE, 0))).toBe(false);
    const domain = newDomain(NAME.toReversed());
    expect(isAnswered(drop(CREATE, 0))).toBe(false);
    fake.putBytes(fake.fieldAt('domain', domain, 'handle'), NAME);
    fake.set('domain', domain, 'tot_pages', 1);
    expect(isAnswered(drop(CREATE, 0))).toBe(false);
  });
});

const pausesAfter = ({ after }: Outcome): number[] => {
  const domain = after.object('domain', fake.hvm.domain);
  return ['controller_pause_count', 'pause_count.counter'].map((path) => domain.num(path));
};
const paused = (controller: number, all: number): void => {
  fake.set('domain', fake.hvm.domain, 'controller_pause_count', controller);
  fake.set('domain', fake.hvm.domain, 'pause_count.counter', all);
};

describe('a domain that is being unpaused', () => {
  it('is told to be unpaused when it is', () => {
    paused(0, 0);
    expect(isAnswered(drop(UNPAUSE, 1))).toBe(true);
  });

  it('is unpaused by the retry when only its controller’s count was reached', () => {
    paused(0, 1);
    const outcome = drop(UNPAUSE, 1);
    expect([isAnswered(outcome), ...pausesAfter(outcome)]).toEqual([false, 1, 1]);
  });

  it('is unpaused by the retry when nothing was done', () => {
    paused(1, 1);
    const outcome = drop(UNPAUSE, 1);
    expect([isAnswered(outcome), ...pausesAfter(outcome)]).toEqual([false, 1, 1]);
  });
});

describe('a domain that is being paused', () => {
  /** Has the thread be in a function that is called from `do_domctl`. */
  function calling(name: string): void {
    const call = fake.symbol('do_domctl') + 0x40n;
    const distance = Number(fake.symbol(name) - (call + 5n));
    fake.put(call, 1, 0xe8);
    fake.put(call + 1n, 4, distance);
    fake.put(fake.frame(0) - 0x100n, 8, call + 5n);
  }

  it('is paused by the retry when only its controller’s count was reached', () => {
    paused(1, 0);
    expect(pausesAfter(drop(PAUSE, 1))).toEqual([0, 0]);
  });

  it('is paused once when its vCPUs were being put to sleep', () => {
    paused(2, 2);
    calling('vcpu_sleep_sync');
    expect(pausesAfter(drop(PAUSE, 1))).toEqual([1, 1]);
  });

  it('keeps its earlier pauses when nothing was done', () => {
    paused(1, 1);
    calling('domain_pause_by_systemcontroller');
    expect(pausesAfter(drop(PAUSE, 1))).toEqual([1, 1]);
  });
});

describe('a domain that was paused for the time of another operation', () => {
  it('is paused no more', () => {
    paused(0, 1);
    expect(pausesAfter(drop(MAX_VCPUS, 1))).toEqual([0, 0]);
  });

  it('stays paused while it is dying, or its dirty pages are being read', () => {
    paused(0, 1);
    fake.set('domain', fake.hvm.domain, 'is_dying', 1);
    expect(pausesAfter(drop(MAX_VCPUS, 1))).toEqual([0, 1]);
    fake.set('domain', fake.hvm.domain, 'is_dying', 0);
    fake.set('domain', fake.hvm.domain, 'arch.paging.preempt.dom', fake.dom0.domain);
    expect(pausesAfter(drop(MAX_VCPUS, 1))).toEqual([0, 1]);
  });
});
