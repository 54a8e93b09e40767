/**
 * The functions by which Xen acknowledges and masks an interrupt line (`irq_desc.handler`, Xen 4.17 arch/x86/irq.c). Damaged code that
 * takes something out of a list that it is not on stores through the line at hand, and the second word of a line is this pointer. Each
 * interrupt of the line then calls what is no function, and the next one comes right after the recovery.
 *
 * What a line was made with is kept since the attach (`kept-words`). A line that has come since, or of which no copy is at hand, tells it
 * otherwise: how guests acknowledge it was decided by its controller when the first one bound it (pirq_acktype), and one that is nobody's has none.
 */
import { ACK_TYPE, type GuestLine, guestLines, lineOf, linesWithoutController } from '../../xen/interrupts.js';
import type { Step } from '../step.js';

export const lineControllers: Step = {
  name: 'line-controllers',
  removes: 'controllers of interrupt lines that are none',
  source: 'ours; Xen 4.17 arch/x86/irq.c',
  run({ plan, xen }) {
    const broken = linesWithoutController(xen);
    if (broken.length === 0) return;
    const ofGuests = new Map(Array.from(guestLines(xen), (guest) => [guest.irq, guest]));
    for (const irq of broken) {
      const line = lineOf(xen, irq)!;
      const guest = ofGuests.get(irq);
      const isNobodys = line.u64('action') === 0n && line.u64('msi_desc') === 0n;
      const name = guest !== undefined ? controllerOf(guest) : isNobodys ? 'no_irq_type' : undefined;
      if (name === undefined || !xen.profile.hasSymbol(name)) continue;
      const why = guest !== undefined ? 'as guests acknowledge it' : "since it is nobody's";
      plan.set(line, 'handler', xen.symbol(name), `IRQ ${irq} has the controller ${name}, ${why}`);
      plan.found(`IRQ ${irq}: controller ${name} written again`);
    }
  },
};

/** By how guests acknowledge the line, and whether its device sends messages. `undefined`: several acknowledge so. */
function controllerOf({ line, action }: GuestLine): string | undefined {
  const sendsMessages = line.u64('msi_desc') !== 0n;
  switch (action.num('ack_type')) {
    case ACK_TYPE.none:
      return sendsMessages ? 'pci_msi_maskable' : 'ioapic_edge_type';
    case ACK_TYPE.eoi:
      return sendsMessages ? 'pci_msi_nonmaskable' : 'ioapic_level_type';
    default:
      return undefined;
  }
}
