/** What a step of a recovery mechanism is. */
import type { CpuState, Situation } from '../xen/cpus.js';
import type { TableDefect } from '../xen/descriptors.js';
import type { EntryFacts } from '../xen/entry.js';
import type { LockInstance } from '../xen/locks.js';
import type { TableLevel } from '../xen/page-tables.js';
import type { Xen } from '../xen/xen.js';
import type { PlanBuilder } from './builder.js';

export interface StepContext {
  readonly plan: PlanBuilder;
  /** Xen as the plan so far leaves it. */
  readonly xen: Xen;
  /** Xen as it was when the machine froze. */
  readonly frozen: Xen;
  readonly facts: EntryFacts;
  /** What was going on when the machine froze. */
  readonly situation: Situation;
  /** What is wrong with the descriptor tables of any CPU. */
  readonly tableDefects: readonly TableDefect[];
  /** CPUs whose hypervisor thread is dropped. The others stand in a guest or wait for an interrupt. */
  readonly abandoned: readonly CpuState[];
  /** How far to look: for what abandoned threads can have touched, or, in an audit and a rehearsal, for everything. */
  readonly scope: 'touched' | 'everything';
  /** Text and read-only data were compared since the machine stopped, and are what they were. */
  readonly textIsSound: boolean;
  /**
   * Whether an abandoned thread was inside code that `pattern` names: only then can it have left such state behind.
   * Always true in a thorough plan.
   */
  wasIn(pattern: RegExp): boolean;
  /** Every lock of this Xen, of interrupt lines those that are held; walked once: no step of a plan creates or moves one. */
  readonly locks: { readonly static: readonly LockInstance[]; readonly heap: readonly LockInstance[] };
  /** Frames of all page tables of PV guests, by level, looked for when first asked for: no step makes a table or takes one away. */
  readonly pageTables: Readonly<Record<TableLevel, readonly number[]>>;
  /** Where an abandoned CPU goes on, when not where its kind of vCPU usually does. */
  readonly destinations: Map<number, Destination>;
  /** Steps that ran into something unreadable, and what that was. */
  readonly givenUp: ReadonlyMap<string, string>;
  /** Notes on single CPUs for the timeline, such as "hypercall mmu_update is retried". */
  readonly notes: Map<number, string[]>;
}

/** `TF_kernel_mode` in `vcpu.arch.flags`: a PV vCPU runs its kernel (Xen: asm-x86/domain.h). */
export const TF_KERNEL_MODE = 1;

export interface Destination {
  readonly rip: bigint;
  readonly rsp: bigint;
  /** What the code there expects in this register; 0 when absent. */
  readonly rbx?: bigint;
}

export interface Step {
  readonly name: string;
  /** The inconsistency it removes, one line. */
  readonly removes: string;
  /** Who described it: paper and section, or Xen's own source. */
  readonly source: string;
  run(context: StepContext): void;
}

export function note(context: StepContext, cpu: number, text: string): void {
  const notes = context.notes.get(cpu) ?? [];
  notes.push(text);
  context.notes.set(cpu, notes);
}
