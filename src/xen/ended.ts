/**
 * VMs that have ended, or are about to: whatever happens next, they are lost. Xen 4.17, common/domain.c (`domain_shutdown`,
 * `domain_kill`) and hvm/svm/svm.c.
 */
import { type Domain, domainName, type Vcpu } from './domains.js';
import { usesSvm, vmcbOf } from './vmcb.js';
import type { Xen } from './xen.js';

/** `VMEXIT_SHUTDOWN`: the guest's CPU could not deliver an exception, nor the double fault after it. */
const EXIT_SHUTDOWN = 0x7fn;

/** What became of a VM that is not to be expected back, one line; `undefined` when all are there. */
export function endedVm(xen: Xen, domains: readonly Domain[]): string | undefined {
  for (const domain of domains) {
    const { object, kind, vcpus } = domain;
    if (kind === 'idle') continue;
    const name = domainName(domain);
    if (object.num('is_dying') !== 0) return `${name} was being destroyed`;
    if (object.bool('is_shutting_down')) return `${name} had shut down, or been crashed`;
    const broken = kind === 'hvm' ? vcpus.find((vcpu) => isBroken(xen, vcpu)) : undefined;
    if (broken !== undefined) return `${broken.name} had met a triple fault`;
  }
  return undefined;
}

/**
 * Whether an HVM vCPU has met a triple fault that Xen has not dealt with yet, or cannot but meet one: QEMU 7.2 now and then saves
 * Xen's own state as that of a guest with more than one vCPU, which then executes in Xen's address space without its page tables.
 */
function isBroken(xen: Xen, vcpu: Vcpu): boolean {
  if (!usesSvm(xen)) return false;
  const vmcb = vmcbOf(xen, vcpu);
  if (!xen.memory.isMapped(vmcb.address)) return false;
  return vmcb.u64('exitcode') === EXIT_SHUTDOWN || xen.profile.isText(vmcb.u64('rip'));
}
