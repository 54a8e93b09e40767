/**
 * Page-frame descriptors whose lock bit or validation was left behind.
 *
 * `page_lock` sets PGT_locked and takes one type reference (Xen 4.17, arch/x86/mm.c); a dropped thread gives neither
 * back, and the next writer of that page table spins for ever. Both are undone.
 *
 * A page that was being validated ("PGT_[type] | 1", neither validated nor partial) makes whoever wants it next wait for
 * a validation that nobody performs any more: its one reference is dropped, so that the retried call begins anew.
 */
import { framesWhere, pageInfo } from '../../xen/frames.js';
import type { Step } from '../step.js';
import { CHANGES_TABLES } from './page-tables.js';

/** Page types that are validated before use: page tables of level 1 to 4, descriptor pages, writable pages. */
const VALIDATED_TYPES: ReadonlySet<number> = new Set([1, 2, 3, 4, 5, 7]);
/** The type stands in the uppermost 3 bits. */
const TYPE_SHIFT = 29;

export const pageFrames: Step = {
  name: 'page-frames',
  removes: 'page locks and validations of page tables that abandoned threads left behind',
  source: 'Le and Tamir, VEE 2011: consistent page-frame descriptors (4 points of success there)',
  run({ plan, xen, wasIn }) {
    if (!wasIn(CHANGES_TABLES)) return;
    const constant = (name: string): bigint => BigInt(xen.profile.constant(name));
    const upper = (name: string): number => Number(constant(name) >> 32n);
    const locked = upper('PGT_locked');
    const settled = upper('PGT_validated') | upper('PGT_partial');
    const isSuspect = (word: number): boolean => {
      if ((word & locked) !== 0) return true;
      return (word & settled) === 0 && VALIDATED_TYPES.has(word >>> TYPE_SHIFT);
    };
    for (const frame of framesWhere(xen, isSuspect)) {
      const info = pageInfo(xen, frame);
      // The descriptor of a frame that is not in use holds other things in these bits.
      if ((info.u64('count_info') & constant('PGC_state')) !== 0n) continue;
      const value = info.u64('u.inuse.type_info');
      if ((value & constant('PGT_locked')) !== 0n) {
        plan.set(info, 'u.inuse.type_info', value - constant('PGT_locked') - 1n, `frame ${frame} was locked`);
        plan.found(`frame 0x${frame.toString(16)} was locked`);
      } else if ((value & constant('PGT_count_mask')) === 1n) {
        plan.set(info, 'u.inuse.type_info', value - 1n, `validation of frame ${frame} was dropped`);
        plan.found(`frame 0x${frame.toString(16)} was being validated`);
      }
    }
  },
};
