/**
 * How deep in interrupts each CPU takes itself to be (`local_irq_count`). Damaged code that counts wrongly, down below zero or up by one
 * with each interrupt, stops nobody: the CPU takes itself to be in an interrupt, and Xen then neither mends a PV guest's page
 * faults nor lets it run on (Xen 4.17, x86/traps.c `fixup_page_fault`), so that guests are hurt long before a `BUG_ON(in_irq())` is met.
 */
import type { Xen } from '../xen/xen.js';

/** Interrupts nest by their priority, of which there are 16. Anything deeper, or less than nothing, is no count. */
const DEEPEST = 16;

export interface Miscount {
  readonly cpu: number;
  /** What it counted; less than nothing where it counted down too often. */
  readonly count: number;
}

/** The first CPU whose count cannot be; one word per CPU is read. */
export function miscounted(xen: Xen): Miscount | undefined {
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const count = xen.irqStat(cpu).num('__local_irq_count') | 0;
    if (count < 0 || count > DEEPEST) return { cpu, count };
  }
  return undefined;
}
