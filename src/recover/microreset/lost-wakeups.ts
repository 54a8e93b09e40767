/**
 * A vCPU that blocked while its notification was being delivered by a dropped thread would sleep for ever. Waking
 * every blocked vCPU is safe and idempotent: a guest that has nothing to do blocks again (`SCHEDOP_block` and HLT may
 * return early), and Xen's own `vcpu_unblock` and `vcpu_wake` put it on the run queue by Xen's own rules.
 *
 * The same `vcpu_wake` brings back a vCPU that is runnable and neither runs nor waits on a queue.
 */
import { allVcpus, type Vcpu } from '../../xen/domains.js';
import { VPF } from '../../xen/scheduler.js';
import type { Step } from '../step.js';

/**
 * An HVM guest takes the interrupt for its events from its virtual APIC, and Xen raises it only when the "pending" mark
 * goes from clear to set: dropped in between, it would never be raised again.
 */
function hasPendingUpcall({ object }: Vcpu): boolean {
  const { memory } = object;
  const info = object.u64('vcpu_info');
  return memory.isMapped(info) && memory.u8(info) !== 0;
}

export const lostWakeups: Step = {
  name: 'lost-wakeups',
  removes: 'notifications that were on their way: vCPUs that would sleep for ever',
  source: 'ours; Xen 4.17 common/sched/core.c',
  run({ plan, abandoned, situation }) {
    if (abandoned.length === 0) return;
    let next = 0;
    for (const vcpu of allVcpus(situation.domains)) {
      if (vcpu.domain.kind === 'idle' || !vcpu.object.bool('is_initialised')) continue;
      const blocked = (vcpu.object.u64('pause_flags') & VPF.blocked) !== 0n;
      const { cpu } = abandoned[next++ % abandoned.length]!;
      if (vcpu.domain.kind === 'hvm' && hasPendingUpcall(vcpu)) {
        plan.call(cpu, 'hvm_assert_evtchn_irq', [vcpu.address], `${vcpu.name} is interrupted for its events`);
      }
      plan.call(cpu, blocked ? 'vcpu_unblock' : 'vcpu_wake', [vcpu.address], `${vcpu.name} looks for work`);
    }
  },
};
