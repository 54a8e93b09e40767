/**
 * Page-frame descriptors whose lock bit or validation was left behind.
 *
 * `page_lock` sets PGT_locked and takes one type reference (Xen 4.17, arch/x86/mm.c); a dropped thread gives neither
 * back, and the next writer of that page table spins for ever. Both are undone.
 *
 * A page that was being validated ("PGT_[type] | 1", neither validated nor partial) makes whoever wants it next wait for
 * a validation that nobody performs any more: its one reference is dropped, so that the retried call begins anew.
 */
import { frameCount, framesByType, pageInfo } from '../../xen/frames.js';
import type { XenObject } from '../../xen/object.js';
import type { Step, StepContext } from '../step.js';

export const pageFrames: Step = {
  name: 'page-frames',
  removes: 'page locks and validations of page tables that abandoned threads left behind',
  source: 'Le and Tamir, VEE 2011: consistent page-frame descriptors (4 points of success there)',
  run(context) {
    const { plan, xen } = context;
    const constant = (name: string): bigint => BigInt(xen.profile.constant(name));
    const locked = constant('PGT_locked');
    const upperLocked = Number(locked >> 32n);
    for (const frame of framesByType(xen, upperLocked, upperLocked)) {
      const info = pageInfo(xen, frame);
      if (!isInUse(info, constant('PGC_state'))) continue;
      plan.set(info, 'u.inuse.type_info', info.u64('u.inuse.type_info') - locked - 1n, `frame ${frame} was locked`);
      plan.found(`frame 0x${frame.toString(16)} was locked`);
    }
    releaseValidations(context, constant);
  },
};

const isInUse = (info: XenObject, stateMask: bigint): boolean => (info.u64('count_info') & stateMask) === 0n;

function releaseValidations({ plan, xen }: StepContext, constant: (name: string) => bigint): void {
  const typeMask = constant('PGT_type_mask');
  const countMask = constant('PGT_count_mask');
  const writable = constant('PGT_writable_page');
  const total = frameCount(xen);
  for (let type = 1n; type <= 5n; type++) {
    const wanted = type << 61n;
    if (wanted === writable) continue;
    const mask = typeMask | constant('PGT_validated') | constant('PGT_partial');
    for (const frame of framesByType(xen, Number(mask >> 32n), Number(wanted >> 32n))) {
      const info = pageInfo(xen, frame);
      const value = info.u64('u.inuse.type_info');
      if (frame >= total || (value & countMask) !== 1n || !isInUse(info, constant('PGC_state'))) continue;
      plan.set(info, 'u.inuse.type_info', value - 1n, `validation of frame ${frame} was dropped`);
      plan.found(`frame 0x${frame.toString(16)} was being validated`);
    }
  }
}
