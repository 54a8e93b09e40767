/**
 * An interrupt that a guest has to acknowledge stays in service until it has. Xen notes it on a small stack of the CPU's, and in the
 * line's set of CPUs that wait (Xen 4.17, arch/x86/irq.c: `pending_eoi`, `cpu_eoi_map`). What `in-service-vectors` acknowledges is
 * in service no longer, and delivered once more it is noted once more. Notes without an interrupt are never taken
 * off: the stack grows until it runs over its end, or the next one to search it goes past its beginning.
 */
import { guestLines, type PendingEoi, pendingEois, pendingEoiWrites } from '../../xen/interrupts.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

export const pendingEoisStep: Step = {
  name: 'pending-eois',
  removes: 'notes of interrupts that wait for a guest, of which none is in service any more',
  source: 'Le and Tamir, VEE 2011: interrupts that guests have not acknowledged; Xen 4.17 arch/x86/irq.c',
  run(context) {
    const { plan, xen, abandoned } = context;
    const acknowledged = new Set(abandoned.map(({ cpu }) => cpu));
    const corrected: number[] = [];
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      const noted = pendingEois(xen, cpu);
      if (noted.length === 0) continue;
      const right = acknowledged.has(cpu) ? [] : stillInService(xen, cpu, noted);
      if (right.length === noted.length) continue;
      const reason = `CPU ${cpu}: ${right.length} of ${noted.length} noted interrupts are in service`;
      for (const { address, bytes } of pendingEoiWrites(xen, cpu, right)) plan.writeBytes(address, bytes, reason);
      plan.found(reason);
      corrected.push(cpu);
    }
    if (corrected.length > 0) withdrawWaiting(context, corrected);
  },
};

/** The same vector is not in service twice: the older note of two is the one that was left behind. */
function stillInService(xen: Xen, cpu: number, noted: readonly PendingEoi[]): PendingEoi[] {
  const vectors = new Set(xen.view.lapic(cpu).inService);
  return noted.filter(
    ({ vector }, n) => vectors.has(vector) && !noted.slice(n + 1).some((later) => later.vector === vector),
  );
}

/** A line waits for a CPU as long as that has a note of it that is not done with. */
function withdrawWaiting({ plan, xen }: StepContext, cpus: readonly number[]): void {
  const notes = new Map(cpus.map((cpu) => [cpu, pendingEois(xen, cpu)]));
  for (const { irq, action } of guestLines(xen)) {
    const mask = action.u64('cpu_eoi_map');
    if (!xen.memory.isMapped(mask)) continue;
    for (const [cpu, left] of notes) {
      const word = mask + BigInt(8 * Math.floor(cpu / 64));
      const bit = 1n << BigInt(cpu % 64);
      const waiting = xen.memory.u64(word);
      if ((waiting & bit) === 0n || left.some((note) => note.irq === irq && !note.ready)) continue;
      plan.write(word, 8, waiting & ~bit, `IRQ ${irq} waits for nothing on CPU ${cpu}`);
    }
  }
}
