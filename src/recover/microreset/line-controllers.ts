/**
 * The functions by which Xen acknowledges and masks an interrupt line (`irq_desc.handler`, Xen 4.17 arch/x86/irq.c). Damaged code that
 * takes something out of a list that it is not on stores through the line at hand, and the second word of a line is this pointer. Each
 * interrupt of the line then calls what is no function, and the next one comes right after the recovery.
 *
 * What a line was made with is kept since the attach (`kept-words`). A line that has come since, or of which no copy is at hand, tells it
 * otherwise: how guests acknowledge it was decided by its controller when the first one bound it (pirq_acktype), and one that is nobody's has none.
 *
 * The other way round, a line's controller tells how guests acknowledge it, where that was written over, and the guests are listed behind
 * their number. How many of them have it in their hands is for `pending-eois`.
 */
import {
  ACK_TYPE,
  type GuestLine,
  guestLines,
  lineOf,
  linesWithoutController,
  listedGuests,
} from '../../xen/interrupts.js';
import type { Step, StepContext } from '../step.js';

export const lineControllers: Step = {
  name: 'line-controllers',
  removes: 'controllers of interrupt lines that are none, and wrong counts of their guests',
  source: 'ours; Xen 4.17 arch/x86/irq.c',
  run(context) {
    mendControllers(context);
    for (const guest of guestLines(context.xen)) mendCounts(context, guest);
  },
};

function mendControllers({ plan, xen }: StepContext): void {
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
}

/**
 * The first words of what guests' lines have: how many guests, whether there may be more, how they acknowledge. One store covers them
 * all, and what does not look wrong is left. Behind the guests of a line may stand one that it had.
 */
function mendCounts({ plan, xen, situation }: StepContext, guest: GuestLine): void {
  const { irq, line, action } = guest;
  const listed = listedGuests(xen, guest, situation.domains);
  const number = action.num('nr_guests');
  const isNumber = number > 0 && number <= listed;
  const areFlags = action.num('shareable') <= 1 && action.num('ack_type') <= ACK_TYPE.eoi;
  if (listed === 0 || (isNumber && areFlags)) return;
  const acknowledged = Object.values(ACK_TYPE).find((way) => {
    const name = controllerFor(way, line.u64('msi_desc') !== 0n);
    return name !== undefined && xen.profile.hasSymbol(name) && xen.symbol(name) === line.u64('handler');
  });
  if (acknowledged === undefined) return;
  const reason = `IRQ ${irq}: guests and how they acknowledge`;
  const fields = { nr_guests: isNumber ? number : listed, in_flight: 0, shareable: 1, ack_type: acknowledged };
  for (const [field, value] of Object.entries(fields)) plan.set(action, field, value, reason);
  plan.found(`${reason} written again`);
}

/** By how guests acknowledge the line, and whether its device sends messages. `undefined`: several acknowledge so. */
const controllerOf = ({ line, action }: GuestLine): string | undefined =>
  controllerFor(action.num('ack_type'), line.u64('msi_desc') !== 0n);

function controllerFor(acknowledged: number, sendsMessages: boolean): string | undefined {
  switch (acknowledged) {
    case ACK_TYPE.none:
      return sendsMessages ? 'pci_msi_maskable' : 'ioapic_edge_type';
    case ACK_TYPE.eoi:
      return sendsMessages ? 'pci_msi_nonmaskable' : 'ioapic_level_type';
    default:
      return undefined;
  }
}
