/**
 * The words of fault injection: what is broken (a fault), when (a trigger), and what came of trying. All choices of an
 * injection are made before it starts, by a seed: a choice is a value that can be printed, stored and repeated.
 */
import type { z } from 'zod';
import type { Random } from '../common/random.js';
import type { Machine } from '../machine/machine.js';
import type { View } from '../x86/view.js';
import type { CpuState } from '../xen/cpus.js';
import type { EntryFacts } from '../xen/entry.js';
import type { Xen } from '../xen/xen.js';
import type { Control } from './control.js';

/** What an injector needs of a box: its machine and how to see Xen in it. */
export interface InjectionTarget {
  readonly machine: Machine;
  readonly facts: EntryFacts;
  at(view: View): Xen;
}

/** A value of JSON: what choices are made of. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
export type Choice = { readonly [key: string]: Json };

/** All random choices of one injection, made before it starts. The same shape as in a campaign's run log. */
export interface Planned {
  /** Name of a row of `FAULTS`. */
  readonly fault: string;
  readonly faultChoice: Choice;
  /** Name of a row of `TRIGGERS`. */
  readonly trigger: string;
  readonly triggerChoice: Choice;
}

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
  /** Set when the CPU was not where it was foretold while `steps` were counted: their number may be wrong then. */
  readonly approximate?: true;
}

/** The moment of an injection: the machine is frozen, and `state` is the CPU that is to be hit. */
export interface Site {
  readonly target: InjectionTarget;
  readonly control: Control;
  readonly xen: Xen;
  readonly state: CpuState;
}

/** A fault that was made. */
export interface Applied {
  readonly kind: 'applied';
  /** What was done, one line for people: "bit 12 of rbx flipped". */
  readonly what: string;
  /** Where it was done, by a fault that lets the machine go on to a place of its own; absent: at the site it was given. */
  readonly site?: Site;
  /**
   * Takes back what the fault changed in code, as the papers' injector does when the error is detected. Only Code faults have it.
   * Called on the frozen machine.
   */
  readonly repair?: () => Promise<void>;
}

/** The point was not reached in its time: no fault was made. */
export interface NotReached {
  readonly kind: 'not-reached';
  readonly why: string;
}

/** One kind of fault: one file, and a row of the table `FAULTS`. */
export interface FaultModel<S extends z.ZodType = z.ZodType> {
  readonly name: string;
  /** One sentence for people. */
  readonly summary: string;
  /** What may stand under `fault:` in a campaign file. */
  readonly options: S;
  /** Makes all random choices. Pure. */
  choose(random: Random, options: z.output<S>): Choice;
  /**
   * Makes the fault as chosen. The machine is frozen before and after.
   * @throws as the machine link does; NL_USAGE when the choice cannot be one of this fault
   */
  apply(site: Site, choice: Choice): Promise<Applied | NotReached>;
}

/** Where a trigger brought the machine. */
export interface Reached {
  readonly kind: 'reached';
  readonly site: Site;
  /** Instructions executed in Xen since the trigger's timer went off: by that CPU, and by those that handed over to it. */
  readonly steps: number;
  /** Whether the number of steps is certain. */
  readonly exact: boolean;
}

/** One way to choose the moment: one file, and a row of the table `TRIGGERS`. */
export interface TriggerModel<S extends z.ZodType = z.ZodType> {
  readonly name: string;
  readonly summary: string;
  /** What may stand under `trigger:` in a campaign file. */
  readonly options: S;
  /** Makes all random choices. Pure. */
  choose(random: Random, options: z.output<S>): Choice;
  /** Lets the machine run until the moment has come. It is frozen afterwards, also when the moment was not reached. */
  reach(target: InjectionTarget, control: Control, choice: Choice): Promise<Reached | NotReached>;
}

/** What came of an injection. The machine stands frozen; `resume()` lets the fault act. */
export type Injection =
  | { readonly kind: 'injected'; readonly point: InjectionPoint; readonly applied: Applied }
  | NotReached;
