import { beforeEach, describe, expect, it } from 'vitest';
import { guestAreas } from '../../../src/recover/microreset/guest-areas.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});
const called = (): string[] => planWith(fake, guestAreas).calls.map((call) => call.function);

describe('guest-areas', () => {
  it('has a time record written whose version says that it is being written', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.set('vcpu_info', fake.get('vcpu', fake.dom0.address, 'vcpu_info'), 'time.version', 7);
    expect(called()).toEqual(['force_update_vcpu_system_time']);
  });

  it('has both records written at the end of a context switch', () => {
    fake.enterXen(0, 'context_switch');
    expect(called()).toEqual(['force_update_vcpu_system_time', '_update_runstate_area']);
  });

  it('has both records written where a thread lost its stack pointer', () => {
    fake.enterXen(0, 'do_sched_op');
    fake.registers(0).rsp = 0xefff_8302_3842_7b88n;
    expect(called()).toEqual(['force_update_vcpu_system_time', '_update_runstate_area']);
  });

  it('writes nothing for a thread that did neither, nor for an idle vCPU', () => {
    fake.enterXen(0, 'do_sched_op');
    expect(called()).toEqual([]);
    fake.run(0, fake.idle[0]!);
    fake.enterXen(0, 'context_switch');
    expect(called()).toEqual([]);
  });
});
