import { beforeEach, describe, expect, it } from 'vitest';
import { domctl } from '../../../src/recover/microreset/domctl.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { guestInDirectMap } from '../../../src/xen/guest-memory.js';
import { FakeXen, GUEST_KERNEL } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const DOMCTL = 36;
const ARGUMENT = GUEST_KERNEL + 0x800n;
const CREATE = 1;
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
  return planWith(fake, domctl, retryHypercalls);
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
