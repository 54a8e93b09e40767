/** Control blocks of HVM vCPUs on AMD (Xen 4.17: asm-x86/hvm/svm/vmcb.h). */
import type { Vcpu } from './domains.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** Whether HVM guests run by AMD's extension: Xen has a control block for each CPU's own state then. */
export const usesSvm = (xen: Xen): boolean => xen.memory.u64(xen.perCpu('host_vmcb', 0)) !== 0n;

/** `struct vmcb_struct` of an HVM vCPU, where `usesSvm`. */
export const vmcbOf = (xen: Xen, { object }: Vcpu): XenObject =>
  xen.object('vmcb_struct', object.u64('arch.hvm.svm.vmcb'));
