/**
 * A CPU whose stack pointer is unusable cannot take the trap that this causes. With a PV guest's state loaded the double fault
 * has a stack of its own. On AMD, while an HVM guest's state is loaded, it has not: the task register is the guest's, so Xen
 * (4.17, hvm/svm/svm.c `svm_ctxt_switch_to`) takes the stacks out of its interrupt table. The third fault in a row shuts the
 * processor down; QEMU then asks for a reset of the machine, and keeps it as it was.
 *
 * All that is wrong is the stack pointer, and `place-cpus` sets it. But the processor remembers that it was delivering a
 * double fault until it has delivered something else: until then the next page fault of its guest would be another triple
 * fault. A breakpoint instruction is delivered whatever came before, and Xen's handler for one in its own code notes it and
 * goes on. There is one in front of `__x86_return_thunk`, as padding, and the thunk itself returns.
 *
 * The same goes for a CPU whose page table does not map Xen: it finds no interrupt table. `place-cpus` sets that as well.
 */
import { lostItsPageTable, lostItsStack } from '../../xen/cpus.js';
import type { Step, StepContext } from '../step.js';

const RETURNING = '__x86_return_thunk';
const INT3 = 0xcc;
const RET = 0xc3;

export const lostStacks: Step = {
  name: 'lost-stacks',
  removes:
    'the memory of a double fault that could not be delivered, of a CPU that lost its stack pointer or page table',
  source: 'ours; Xen 4.17 hvm/svm/svm.c; AMD64 manual volume 2, chapter 8',
  run(context) {
    const { plan, xen, abandoned } = context;
    for (const state of abandoned) {
      const { cpu, guestTrap, registers } = state;
      if (guestTrap !== undefined) continue;
      const noStack = lostItsStack(xen, state);
      const noPageTable = lostItsPageTable(xen, state);
      if (noStack) plan.found(`CPU ${cpu}: its stack pointer was 0x${registers.rsp.toString(16)}`);
      if (noPageTable) plan.found(`CPU ${cpu}: its page table, at 0x${registers.cr3.toString(16)}, did not map Xen`);
      if (noStack || noPageTable) deliverSomething(context, cpu);
    }
  },
};

/** Has a CPU that could not deliver a double fault deliver something else before all else. */
export function deliverSomething({ plan, xen }: StepContext, cpu: number): void {
  const thunk = xen.profile.hasSymbol(RETURNING) ? xen.symbol(RETURNING) : undefined;
  const known = thunk !== undefined && xen.memory.isMapped(thunk - 1n);
  const fits = known && xen.memory.u8(thunk - 1n) === INT3 && xen.memory.u8(thunk) === RET;
  if (fits) plan.call(cpu, RETURNING, [], `CPU ${cpu} delivers a breakpoint, and forgets its double fault`, -1n);
}
