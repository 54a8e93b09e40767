/** Interrupt lines. */
import { guestLineDefect, guestLines, linesOfGuests, linesWithoutController } from '../../xen/interrupts.js';
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

/** With the line's next interrupt Xen looks up in its guests' trees what each of them sees of it, and fails where that is nothing. */
export const guestInterrupts: AuditPart = {
  name: 'interrupts of guests',
  run({ plan, xen, situation }) {
    for (const line of guestLines(xen)) {
      const defect = guestLineDefect(xen, line, situation.domains);
      if (defect !== undefined) plan.problem(`IRQ ${line.irq} ${defect}`);
    }
  },
};
