/**
 * Page-frame descriptors whose lock bit or validation was left behind.
 *
 * `page_lock` sets PGT_locked and takes one type reference (Xen 4.17, arch/x86/mm.c); a dropped thread gives neither
 * back, and the next writer of that page table spins for ever. Both are undone.
 *
 * A page that was being validated ("PGT_[type] | 1", neither validated nor partial) makes whoever wants it next wait for
 * a validation that nobody performs any more: its one reference is dropped, so that the retried call begins anew. Whoever takes
 * or gives back a type reference holds a general one meanwhile, which goes with it.
 *
 * Only a thread that works on a descriptor leaves it so, and it must be able to find it again: the frames to look at are
 * those that an abandoned thread's registers and stack lead to (`xen/touched.ts`). ReHype looks at every descriptor, which
 * takes longer the more RAM there is; the same step that way is there for comparison.
 */
import { FrameWords, isWanted, pageInfo } from '../../xen/frames.js';
import { touchedFrames } from '../../xen/touched.js';
import type { Step, StepContext } from '../step.js';
import { CHANGES_TABLES, dropGeneral, type FrameSearch, searchOf } from './page-tables.js';

/** Page types that are validated before use: page tables of level 1 to 4, descriptor pages, writable pages. Bit n: type n. */
const VALIDATED_TYPES = 0b1011_1110;

export const pageFramesBy = (search: FrameSearch): Step => ({
  name: 'page-frames',
  removes: 'page locks and validations of page tables that abandoned threads left behind',
  source: 'Le and Tamir, VEE 2011: consistent page-frame descriptors (4 points of success there)',
  run(context) {
    const { plan, xen } = context;
    const constant = (name: string): bigint => BigInt(xen.profile.constant(name));
    for (const frame of suspects(context, searchOf(context, search))) {
      const info = pageInfo(xen, frame);
      const value = info.u64('u.inuse.type_info');
      if ((value & constant('PGT_locked')) !== 0n) {
        plan.set(info, 'u.inuse.type_info', value - constant('PGT_locked') - 1n, `frame ${frame} was locked`);
        plan.found(`frame 0x${frame.toString(16)} was locked`);
      } else if ((value & constant('PGT_count_mask')) === 1n) {
        const reason = `validation of frame ${frame} was dropped`;
        plan.set(info, 'u.inuse.type_info', value - 1n, reason);
        dropGeneral(context, frame, 1, reason);
        plan.found(`frame 0x${frame.toString(16)} was being validated`);
      }
    }
  },
});

export const pageFrames = pageFramesBy('touched');

/** Frames that are locked, or neither validated nor partly so. */
function suspects(context: StepContext, search: FrameSearch): number[] {
  const { xen, abandoned, wasIn } = context;
  const upper = (name: string): number => Number(BigInt(xen.profile.constant(name)) >> 32n);
  const locked = upper('PGT_locked');
  const settled = upper('PGT_validated') | upper('PGT_partial');
  const wanted = { anyOf: locked, types: VALIDATED_TYPES, noneOf: settled };
  const words = new FrameWords(xen);
  if (search === 'touched') {
    return touchedFrames(xen, words, abandoned).filter((frame) => isWanted(words.typeOf(frame), wanted));
  }
  return wasIn(CHANGES_TABLES) ? words.where(wanted, 'all') : [];
}
