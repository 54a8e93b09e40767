/**
 * A dropped thread leaves its CPU's nesting counts behind: "in interrupt", "preemption off", "inside an RCU read
 * section", "holding this mm lock". With no thread left they are all zero.
 *
 * They are zero as well on a CPU that stands in its guest or waits for an interrupt, unless damaged code counted wrongly there: a CPU
 * that takes itself to be in an interrupt hands a PV guest the page faults that Xen is to mend (Xen 4.17, x86/traps.c `fixup_page_fault`).
 *
 * The IRQ nesting count alone takes NiLiHype from 0 to 16 % (Zhou and Tamir, DSN 2018, table of increments); the
 * others are the same idea for what Xen 4.17 counts.
 */
import { NESTING_COUNTERS, READER_SLOTS } from '../../xen/nesting.js';
import type { Step, StepContext } from '../step.js';

export const perCpuState: Step = {
  name: 'per-cpu-state',
  removes: 'nesting counts and reader slots that abandoned threads left behind, or that damaged code changed',
  source: 'Zhou and Tamir, DSN 2018: clear the IRQ nesting count',
  run(context) {
    for (const { cpu } of context.situation.cpus) resetCpu(context, cpu);
  },
};

function resetCpu({ plan, xen }: StepContext, cpu: number): void {
  const changed: string[] = [];
  const stat = xen.irqStat(cpu);
  if (plan.set(stat, '__local_irq_count', 0, `CPU ${cpu} is in no interrupt`)) changed.push('IRQ nesting');
  for (const name of NESTING_COUNTERS) {
    if (plan.write(xen.perCpu(name, cpu), 4, 0, `${name} of CPU ${cpu}`)) changed.push(name);
  }
  for (const name of READER_SLOTS) {
    if (plan.write(xen.perCpu(name, cpu), 8, 0, `${name} of CPU ${cpu}: it reads under no lock`)) changed.push(name);
  }
  if (changed.length > 0) plan.found(`CPU ${cpu}: ${changed.join(', ')} cleared`);
}
