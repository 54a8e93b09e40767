import { beforeEach, describe, expect, it } from 'vitest';
import { allVcpus, listDomains } from '../../src/xen/domains.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

describe('listDomains', () => {
  it('gives every domain with its kind, the idle domain last', () => {
    const domains = listDomains(fake.xen());
    expect(domains.map(({ id, kind }) => [id, kind])).toEqual([
      [0, 'pv'],
      [1, 'hvm'],
      [0x7fff, 'idle'],
    ]);
  });

  it('names vCPUs as Xen prints them', () => {
    expect(allVcpus(listDomains(fake.xen())).map((vcpu) => vcpu.name)).toEqual([
      'd0v0',
      'd1v0',
      'd[IDLE]v0',
      'd[IDLE]v1',
    ]);
  });

  it('leaves out a vCPU that was never created', () => {
    fake.set('domain', fake.hvm.domain, 'max_vcpus', 4);
    expect(listDomains(fake.xen())[1]!.vcpus.map((vcpu) => vcpu.name)).toEqual(['d1v0']);
  });

  it('ends with an error on a list that runs in a circle', () => {
    fake.set('domain', fake.hvm.domain, 'next_in_list', fake.dom0.domain);
    expect(() => listDomains(fake.xen())).toThrow(/does not end/);
  });

  it('does not believe an absurd number of vCPUs, and counts those of the table', () => {
    fake.set('domain', fake.hvm.domain, 'max_vcpus', 0x4000_0000);
    const domain = listDomains(fake.xen()).find(({ address }) => address === fake.hvm.domain)!;
    expect(domain.vcpus.map(({ address }) => address)).toEqual([fake.hvm.address]);
    fake.set('domain', fake.hvm.domain, 'vcpu', 0);
    expect(() => listDomains(fake.xen())).toThrow(/claims/);
  });
});
