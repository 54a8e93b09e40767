import { beforeEach, describe, expect, it } from 'vitest';
import { miscounted } from '../../src/detect/nesting.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

function count(cpu: number, value: number): void {
  const size = fake.profile.struct('irq_cpustat_t').size;
  fake.set('irq_cpustat_t', fake.symbol('irq_stat') + BigInt(cpu * size), '__local_irq_count', value);
}

describe('a count of interrupts', () => {
  it('is one as deep as interrupts nest', () => {
    count(0, 2);
    expect(miscounted(fake.xen())).toBeUndefined();
  });

  it('cannot be less than nothing', () => {
    count(1, 0xffff_fff0);
    expect(miscounted(fake.xen())).toEqual({ cpu: 1, count: -16 });
  });

  it('cannot be more than there are priorities', () => {
    count(0, 900);
    expect(miscounted(fake.xen())).toEqual({ cpu: 0, count: 900 });
  });
});
