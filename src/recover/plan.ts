/**
 * A plan is data: everything a recovery will change, in order, each edit with the step that asked for it and the
 * reason. Nothing touches the machine until the plan is complete and checked.
 */
import type { VirtualAddress } from '../x86/address.js';
import type { CpuRegisters } from '../x86/registers.js';

interface EditOrigin {
  /** Name of the step that asked for it. */
  readonly step: string;
  /** Why, in words: "spinlock heap_lock was held by CPU 2". */
  readonly reason: string;
}

export type Edit =
  | (EditOrigin & {
      readonly kind: 'memory';
      readonly address: VirtualAddress;
      readonly before: Uint8Array;
      readonly after: Uint8Array;
    })
  /** Text goes through the debugger stub, since QEMU keeps translated code. */
  | (EditOrigin & {
      readonly kind: 'text';
      readonly address: VirtualAddress;
      readonly before: Uint8Array;
      readonly after: Uint8Array;
    })
  | (EditOrigin & { readonly kind: 'registers'; readonly cpu: number; readonly set: Partial<CpuRegisters> })
  /**
   * A function of Xen that the CPU calls with interrupts off before it goes where it is sent. Carried out by frames
   * on its own stack, so it costs no round trip and all CPUs do theirs in parallel.
   */
  | (EditOrigin & {
      readonly kind: 'call';
      readonly cpu: number;
      readonly function: string;
      /** How far from the function's start it is entered, in bytes; 0 when absent. */
      readonly offset?: bigint;
      readonly arguments: readonly bigint[];
    });

/** What a step did, for the timeline and the ablation study. */
export interface StepRecord {
  readonly name: string;
  /** What inconsistency it removes, one line. */
  readonly removes: string;
  /** Who described it. */
  readonly source: string;
  /** What it found, one line each; empty when there was nothing to repair. */
  readonly findings: readonly string[];
  readonly edits: number;
  /** Time the step took, in milliseconds. */
  readonly durationMs: number;
}

/** What one CPU was doing when the machine froze, and where the plan sends it. */
export interface CpuRecord {
  readonly cpu: number;
  /** 'guest': outside Xen. 'idle': in the idle loop with nothing in hand. 'xen': working for `vcpu` inside Xen. */
  readonly where: 'guest' | 'idle' | 'xen';
  /** As Xen prints it: `d1v0`; `d[IDLE]v2` for an idle vCPU. */
  readonly vcpu: string;
  /** The hypercall in progress, if any: its Xen name. */
  readonly hypercall?: string;
  /** Innermost first: `function+offset`. */
  readonly backtrace: readonly string[];
  /** What the plan does with it, for people: "left alone", "abandoned; hypercall mmu_update is retried". */
  readonly action: string;
  readonly abandoned: boolean;
  readonly retried: boolean;
}

/** Something that stands in the way: the plan must not be committed. */
export interface Problem {
  readonly step: string;
  readonly message: string;
}

export interface Plan {
  readonly mechanism: string;
  readonly edits: readonly Edit[];
  readonly steps: readonly StepRecord[];
  readonly cpus: readonly CpuRecord[];
  /** Empty when the plan passed its check. */
  readonly problems: readonly Problem[];
}
