/**
 * A PV guest's memory, through its kernel's page tables: they map the running process as well, while those that the vCPU
 * runs on at the moment may be the process's, which do not map the kernel.
 */
import { PAGE_SIZE, physical } from '../x86/address.js';
import { translate } from '../x86/paging.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

const PAGE_SHIFT_BITS = 12n;

/** Machine address behind a guest's virtual address; `undefined` where the guest maps nothing. */
export function guestToMachine(xen: Xen, vcpu: XenObject, address: bigint): number | undefined {
  const root = physical(vcpu.u64('arch.guest_table') << PAGE_SHIFT_BITS);
  return translate(xen.view, root, BigInt.asUintN(64, address))?.physical;
}

/** A copy of a guest's memory; `undefined` where part of it is not mapped. */
export function guestBytes(xen: Xen, vcpu: XenObject, address: bigint, length: number): Uint8Array | undefined {
  const out = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const at = guestToMachine(xen, vcpu, address + BigInt(done));
    const page = at === undefined ? undefined : xen.view.page(Math.floor(at / PAGE_SIZE));
    if (at === undefined || page === undefined) return undefined;
    const offset = at % PAGE_SIZE;
    const chunk = Math.min(length - done, PAGE_SIZE - offset);
    out.set(page.subarray(offset, offset + chunk), done);
    done += chunk;
  }
  return out;
}

/** Where Xen's direct map shows a guest's virtual address: there a plan can write to it. */
export function guestInDirectMap(xen: Xen, vcpu: XenObject, address: bigint): bigint | undefined {
  const at = guestToMachine(xen, vcpu, address);
  return at === undefined ? undefined : BigInt(xen.profile.constant('DIRECTMAP_VIRT_START')) + BigInt(at);
}
