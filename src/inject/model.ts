/**
 * The words of fault injection: what is broken (a fault), when (a trigger), and what came of trying. All choices of an
 * injection are made before it starts, by a seed: a choice is a value that can be printed, stored and repeated.
 */
import type { Random } from '../common/random.js';
import type { Machine } from '../machine/machine.js';
import type { View } from '../x86/view.js';
import type { CpuState } from '../xen/cpus.js';
import type { EntryFacts } from '../xen/entry.js';
import type { Xen } from '../xen/xen.js';

/** What an injector needs of a box: its machine and how to see Xen in it. */
export interface InjectionTarget {
  readonly machine: Machine;
  readonly facts: EntryFacts;
  at(view: View): Xen;
}

/** A value of JSON: what choices are made of. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
export type Choice = { readonly [key: string]: Json };

/** Where and under what circumstances a fault hit. */
export interface InjectionPoint {
  readonly cpu: number;
  /** Whose thread was hit, as Xen prints it. */
  readonly vcpu: string;
  /** `function+offset`. */
  readonly at: string;
  readonly hypercall?: string;
  /** Innermost first. */
  readonly backtrace: readonly string[];
  /** Instructions executed in Xen between the moment the trigger's timer went off and the injection. */
  readonly steps: number;
}

/** The moment of an injection: the machine is frozen, and `state` is the CPU that is to be hit. */
export interface Site {
  readonly target: InjectionTarget;
  readonly xen: Xen;
  readonly state: CpuState;
}

/** A fault that was made. */
export interface Applied {
  /** What was done, one line for people: "bit 12 of rbx flipped". */
  readonly what: string;
  /**
   * Takes back what the fault changed in code, as the papers' injector does when the error is detected. Only Code faults have it.
   * Called on the frozen machine.
   */
  readonly repair?: () => Promise<void>;
}

/** One kind of fault. `O` are its options as they stand in a campaign file, checked. */
export interface FaultModel<O = unknown> {
  readonly name: string;
  /** One sentence for people. */
  readonly summary: string;
  /** Makes all random choices. Pure. */
  choose(random: Random, options: O): Choice;
  /** Makes the fault as chosen. The machine is frozen before and after. @throws as the machine link does */
  apply(site: Site, choice: Choice): Promise<Applied>;
}

/** What came of an injection. The machine stands frozen; `resume()` lets the fault act. */
export type Injection =
  | { readonly kind: 'injected'; readonly point: InjectionPoint; readonly applied: Applied }
  /** The trigger's point was not reached in its time: no fault was made. */
  | { readonly kind: 'not-reached'; readonly why: string };
