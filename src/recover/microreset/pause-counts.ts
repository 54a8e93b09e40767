/**
 * Domains that a dropped thread had paused. Xen pauses a domain for the time of many operations (Xen 4.17: `domain_pause` in
 * common/domctl.c, arch/x86/domctl.c, arch/x86/hvm, common/ioreq.c), and nobody ends a pause whose thread is gone: the VM
 * stands still for ever, with no error to be seen. Since all threads are dropped, all such pauses are; what stays are those of
 * the controller, which has a count of its own. Two others outlive a thread, and domains that have them are left alone: a
 * domain that is dying, and one whose dirty pages are being read in a call that was preempted.
 *
 * The vCPUs are woken by `lost-wakeups`.
 */
import type { Domain } from '../../xen/domains.js';
import type { Step, StepContext } from '../step.js';

export const pauseCounts: Step = {
  name: 'pause-counts',
  removes: 'pauses of domains whose threads are gone',
  source: 'ours; Xen 4.17 common/domain.c',
  run(context) {
    if (context.abandoned.length === 0) return;
    for (const domain of context.situation.domains) if (domain.kind !== 'idle') settle(context, domain);
  },
};

function settle({ plan, xen }: StepContext, { address, id }: Domain): void {
  const domain = xen.object('domain', address);
  if (domain.num('is_dying') !== 0 || domain.u64('arch.paging.preempt.dom') !== 0n) return;
  const count = domain.num('controller_pause_count');
  const reason = `d${id} is paused by nobody but its controller`;
  if (plan.set(domain, 'pause_count.counter', count, reason)) plan.found(reason);
}
