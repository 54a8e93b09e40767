/**
 * An interrupt that a guest has to acknowledge stays in service until it has. Xen notes it in three places (Xen 4.17,
 * arch/x86/irq.c): on a small stack of the CPU's (`pending_eoi`), in the line's set of CPUs that wait (`cpu_eoi_map`), and with each
 * guest (`pirq.masked`), whose number the line counts (`in_flight`).
 *
 * What `in-service-vectors` acknowledges is in service no longer, and delivered once more it is noted once more. A note without an
 * interrupt is never taken off: the stack grows until it runs over its end, or the next one to search it goes past its beginning.
 * And a thread dropped between a guest's mark and the count leaves a count that never becomes 0: the line is dead.
 */
import { ifReadable } from '../../xen/damage.js';
import {
  ACK_TYPE,
  type GuestLine,
  guestLines,
  type PendingEoi,
  pendingEois,
  pendingEoiWrites,
  pirqsOf,
} from '../../xen/interrupts.js';
import { TIMER_STATUS } from '../../xen/timers.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

/** A time of Xen's at which a timer is due at once, in nanoseconds. */
const LONG_AGO = 1n;

export const pendingEoisStep: Step = {
  name: 'pending-eois',
  removes: 'disagreement about which interrupts wait for a guest to acknowledge them',
  source: 'Le and Tamir, VEE 2011: interrupts that guests have not acknowledged; Xen 4.17 arch/x86/irq.c',
  run(context) {
    const { plan, xen, abandoned } = context;
    const acknowledged = new Set(abandoned.map(({ cpu }) => cpu));
    const left = new Map<number, readonly PendingEoi[]>();
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      const noted = pendingEois(xen, cpu);
      const right = noted.length === 0 || acknowledged.has(cpu) ? [] : stillInService(xen, cpu, noted);
      left.set(cpu, right);
      if (right.length === noted.length) continue;
      const reason = `CPU ${cpu}: ${right.length} of ${noted.length} noted interrupts are in service`;
      for (const { address, bytes } of pendingEoiWrites(xen, cpu, right)) plan.writeBytes(address, bytes, reason);
      plan.found(reason);
    }
    for (const line of guestLines(xen)) {
      const type = line.action.num('ack_type');
      if (type === ACK_TYPE.none) continue;
      const waiting = type === ACK_TYPE.eoi ? correctWaiting(context, line, left) : false;
      correctCount(context, line, waiting);
    }
  },
};

/** The same vector is not in service twice: the older note of two is the one that was left behind. */
function stillInService(xen: Xen, cpu: number, noted: readonly PendingEoi[]): PendingEoi[] {
  const vectors = new Set(xen.view.lapic(cpu).inService);
  return noted.filter(
    ({ vector }, n) => vectors.has(vector) && !noted.slice(n + 1).some((later) => later.vector === vector),
  );
}

/**
 * A line waits for a CPU as long as that has a note of it that is not done with.
 * @returns whether it waits for any
 */
function correctWaiting(
  { plan, xen }: StepContext,
  { irq, action }: GuestLine,
  notes: ReadonlyMap<number, readonly PendingEoi[]>,
): boolean {
  const mask = action.u64('cpu_eoi_map');
  let waits = false;
  for (const [cpu, left] of notes) {
    const awaited = left.some((note) => note.irq === irq && !note.ready);
    waits ||= awaited;
    if (awaited || !xen.memory.isMapped(mask)) continue;
    plan.setInMask(mask, cpu, false, `IRQ ${irq} waits for nothing on CPU ${cpu}`);
  }
  return waits;
}

/**
 * The count follows from the guests' marks. Where a CPU waits and no guest is marked, one was dropped while it acknowledged: it
 * is marked again, so that its repeated request, or the line's timer, does it as a whole.
 */
function correctCount({ plan, xen, abandoned }: StepContext, line: GuestLine, waiting: boolean): void {
  const pirqs = ifReadable(() => pirqsOf(xen, line).map((pirq) => ({ pirq, masked: pirq.bool('masked') })));
  if (pirqs === undefined || pirqs.length === 0) return;
  let marked = pirqs.filter(({ masked }) => masked).length;
  if (waiting && marked === 0) {
    plan.set(pirqs[0]!.pirq, 'masked', 1, `IRQ ${line.irq} waits for a guest`);
    plan.found(`IRQ ${line.irq} is not acknowledged yet`);
    marked = 1;
  }
  if (plan.set(line.action, 'in_flight', marked, `IRQ ${line.irq} waits for as many guests as are marked`))
    plan.found(`IRQ ${line.irq} waits for ${marked} ${marked === 1 ? 'guest' : 'guests'}`);
  const [caller] = abandoned;
  if (marked === 0 || caller === undefined || line.action.num('eoi_timer.status') !== TIMER_STATUS.inactive) return;
  const timer = line.action.at('eoi_timer');
  plan.call(caller.cpu, 'set_timer', [timer, LONG_AGO], `IRQ ${line.irq} does not wait for its guest for ever`);
}
