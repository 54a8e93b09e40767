/**
 * Text and read-only data that are not what they were when the guard attached. They are mapped read-only, but bits of
 * memory flip, and a stray write through the direct map finds them as well. What differs is put back, through the
 * debugger stub, since QEMU keeps translated code.
 *
 * Without a copy (a capsule has none) there is nothing to compare with.
 */
import { damageOf } from '../../xen/image.js';
import type { Step } from '../step.js';

export const text: Step = {
  name: 'text',
  removes: 'damage to text and read-only data',
  source: 'ours',
  run({ plan, xen, facts, textIsSound }) {
    if (facts.image === undefined || textIsSound) return;
    for (const { address, pristine } of damageOf(xen, facts.image)) {
      const place = xen.profile.describe(address);
      plan.writeText(address, pristine, `${place} is not what it was`);
      plan.found(`${pristine.length} bytes at ${place} were damaged`);
    }
  },
};
