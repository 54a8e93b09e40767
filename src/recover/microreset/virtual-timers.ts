/**
 * Timers of the platform that an HVM guest sees: of its local interrupt controller, clock and event timers. Each vCPU has a list of
 * those that interrupt it (Xen 4.17, arch/x86/hvm/vpt.c: `tm_list`), which Xen goes through whenever the vCPU is about to run. A
 * broken list is linked anew from the timers that there can be and that say they are on it.
 */
import type { Domain, Vcpu } from '../../xen/domains.js';
import { closedList } from '../../xen/list.js';
import type { XenObject } from '../../xen/object.js';
import type { Xen } from '../../xen/xen.js';
import type { StepContext } from '../step.js';

const OF_VCPU = ['arch.hvm.vlapic.pt'] as const;
const OF_DOMAIN = ['arch.vpit.pt0'] as const;
/** `struct pl_time`, on the heap. */
const OF_PLATFORM = ['vrtc.pt', 'vhpet.pt[0]', 'vhpet.pt[1]', 'vhpet.pt[2]'] as const;

export function mendVirtualTimers({ plan, xen, situation }: StepContext): void {
  for (const domain of situation.domains) {
    if (domain.kind !== 'hvm') continue;
    for (const vcpu of domain.vcpus) {
      const list = vcpu.object.at('arch.hvm.tm_list');
      // All zero: a vCPU that is being made.
      if (xen.memory.u64(list) === 0n && xen.memory.u64(list + 8n) === 0n) continue;
      const { broken } = closedList(xen.memory, list);
      if (broken === undefined) continue;
      const reason = `timers that interrupt ${vcpu.name}`;
      plan.linkList(list, listed(xen, domain, vcpu), `${reason} linked anew`);
      plan.found(`${reason}: ${broken}; linked anew`);
    }
  }
}

/** Links of the timers that say they are on a vCPU's list. */
function listed(xen: Xen, domain: Domain, vcpu: Vcpu): bigint[] {
  const platform = domain.object.u64('arch.hvm.pl_time');
  const timers = [
    ...inside(xen, vcpu.object, OF_VCPU),
    ...inside(xen, domain.object, OF_DOMAIN),
    ...(xen.memory.isMapped(platform) ? inside(xen, xen.object('pl_time', platform), OF_PLATFORM) : []),
  ];
  return timers.filter((pt) => pt.bool('on_list') && pt.u64('vcpu') === vcpu.address).map((pt) => pt.at('list'));
}

const inside = (xen: Xen, object: XenObject, fields: readonly string[]): XenObject[] =>
  fields.map((field) => xen.object('periodic_time', object.at(field)));
