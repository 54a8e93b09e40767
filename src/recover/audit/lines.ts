/** Interrupt lines. */
import { linesOfGuests, linesWithoutController } from '../../xen/interrupts.js';
import type { AuditPart } from './part.js';

/** The next interrupt of a line calls its controller, and hands itself to whom its action names. */
export const interruptLines: AuditPart = {
  name: 'interrupt lines',
  answersFor: ['line-controllers'],
  run({ plan, xen }) {
    for (const irq of linesWithoutController(xen)) plan.problem(`IRQ ${irq} would have no controller`);
    for (const { irq, line } of linesOfGuests(xen)) {
      if (!xen.memory.isMapped(line.u64('action'))) plan.problem(`IRQ ${irq} would lead to no guest`);
    }
  },
};
