/**
 * Some pointers follow from nothing: which page holds what a guest shares with Xen, where a CPU's scheduling data are. From below a
 * copy can be kept of them, which no fault in the hypervisor reaches. Only where what stands there now cannot be right
 * is it believed, since all of them may change in the life of a box.
 */
import { lostWords } from '../../xen/kept.js';
import type { Step } from '../step.js';

export const keptWords: Step = {
  name: 'kept-words',
  removes: 'wild pointers in places that nothing else tells',
  source: 'ours: a copy kept from the attach on',
  run({ plan, xen, facts, situation }) {
    if (facts.kept === undefined) return;
    for (const { address, value, what } of lostWords(xen, situation.domains, facts.kept)) {
      plan.write(address, 8, value, `${what} as it was at the attach`);
      plan.found(`${what} was damaged`);
    }
  },
};
