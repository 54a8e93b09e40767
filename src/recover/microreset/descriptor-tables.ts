/**
 * A bit that flips in a CPU's interrupt table, segment table or task-state segment makes the next interrupt, or every one, a
 * fault: the CPU panics, double-faults, or shuts down with a triple fault. What the tables must be is known
 * (`src/xen/descriptors.ts`), and what differs is written again.
 *
 * A CPU that shut down still remembers a double fault, see `lost-stacks`.
 */
import type { Step } from '../step.js';
import { deliverSomething } from './lost-stacks.js';

export const descriptorTables: Step = {
  name: 'descriptor-tables',
  removes: 'damage to the interrupt tables, segment tables and task-state segments of CPUs',
  source: 'ours; Xen 4.17 arch/x86/cpu/common.c, desc.c, traps.c',
  run(context) {
    const { plan, tableDefects, abandoned } = context;
    const repaired = new Set<number>();
    for (const { cpu, what, address, right } of tableDefects) {
      plan.writeBytes(address, right, `${what}, of CPU ${cpu}, is not what it must be`);
      plan.found(`CPU ${cpu}: ${what} was damaged`);
      repaired.add(cpu);
    }
    for (const { cpu } of abandoned) if (repaired.has(cpu)) deliverSomething(context, cpu);
  },
};
