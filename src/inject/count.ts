/** Executes an exact number of instructions of Xen on one CPU, over as many stays in Xen as it takes. */
import type { NotReached, Reached, Site } from './model.js';
import { executesXen, siteOf } from './site.js';

export interface Count {
  readonly instructions: number;
  /** performance.now() */
  readonly deadline: number;
  /** Which instructions of Xen count, by their address; default all. */
  readonly counts?: (rip: bigint) => boolean;
}

/** The point is before the instruction that would be the next to count. */
export async function countInXen(
  site: Site,
  { instructions, deadline, counts = () => true }: Count,
): Promise<Reached | NotReached> {
  const { target, control } = site;
  const { cpu } = site.state;
  let now = site;
  for (let done = 0; ; ) {
    if (executesXen(now) && counts(now.state.registers.rip)) {
      if (done === instructions) return { kind: 'reached', site: now, steps: done };
      done++;
    }
    if (performance.now() > deadline) {
      return { kind: 'not-reached', why: `CPU ${cpu} executed only ${done} of ${instructions} instructions in time` };
    }
    if (executesXen(now)) await target.machine.stepOne(cpu);
    else await control.runFor(1);
    now = await siteOf(target, control, cpu);
  }
}
