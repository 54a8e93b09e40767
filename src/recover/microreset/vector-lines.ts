/**
 * Which interrupt line a CPU takes a vector for (`vector_irq`, Xen 4.17 arch/x86/irq.c): a line's number, the complement of one whose
 * vector it was, or none. Each line knows its vector, and on which CPUs; so an entry that can be neither is told from there. With such
 * an entry each interrupt of that vector is a page fault, and the next one comes right after the recovery.
 */
import { isInMask } from '../../xen/cpumask.js';
import { lines } from '../../xen/interrupts.js';
import type { Xen } from '../../xen/xen.js';
import type { Step } from '../step.js';

const VECTORS = 256;
/** No line has had this vector on this CPU. */
const NONE = -(2 ** 31);

export const vectorLines: Step = {
  name: 'vector-lines',
  removes: 'vectors that a CPU takes for lines that there are not',
  source: 'ours; Xen 4.17 arch/x86/irq.c',
  run({ plan, xen }) {
    const count = xen.memory.u32(xen.symbol('nr_irqs'));
    for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
      const table = xen.perCpu('vector_irq', cpu);
      for (const vector of impossible(xen, table, count)) {
        const line = lineOfVector(xen, cpu, vector);
        const whose = line === undefined ? 'no line' : `IRQ ${line}`;
        const reason = `vector ${vector} of CPU ${cpu} is that of ${whose}`;
        plan.write(table + BigInt(4 * vector), 4, line ?? NONE, reason);
        plan.found(reason);
      }
    }
  },
};

/** Vectors whose entries are no line's number, no complement of one, and not that there is none. */
function impossible(xen: Xen, table: bigint, count: number): number[] {
  const bytes = xen.memory.bytes(table, 4 * VECTORS);
  const entries = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: number[] = [];
  for (let vector = 0; vector < VECTORS; vector++) {
    const entry = entries.getInt32(4 * vector, true);
    if (entry !== NONE && (entry >= count || ~entry >= count)) found.push(vector);
  }
  return found;
}

function lineOfVector(xen: Xen, cpu: number, vector: number): number | undefined {
  for (const { irq, line } of lines(xen)) {
    if (line.num('arch.vector') !== vector) continue;
    const mask = line.u64('arch.cpu_mask');
    if (xen.memory.isMapped(mask) && isInMask(xen.memory, mask, cpu)) return irq;
  }
  return undefined;
}
