/** All that is told about one failure of the hypervisor and what became of the machines on it. */
import type { Recovery } from '../recover/outcome.js';

/** How one virtual machine came through. */
export interface VmVerdict {
  readonly name: string;
  /** `dom0`: the privileged VM, itself PV. */
  readonly kind: 'dom0' | 'pv' | 'pvh';
  /** It does work again after the recovery. */
  readonly alive: boolean;
  /** None of its work is lost or wrong. */
  readonly intact: boolean;
  /** What is wrong with it, or what its evidence is. */
  readonly note?: string;
}

/** What was broken on purpose, where it was on purpose. */
export interface InjectionRecord {
  readonly cpu: number;
  /** Where the CPU stood, as `function+offset`. */
  readonly at: string;
  /** What was done to it, in words: "program counter set to 0". */
  readonly what: string;
  /** Host-monotonic milliseconds at which the CPU ran on, broken. */
  readonly atMs: number;
}

export interface Story {
  /** One line of where this happened: "Xen 4.17.5, 4 CPUs, 2048 MiB, seed 7". */
  readonly setting: string;
  readonly injection?: InjectionRecord;
  /** Absent when no failure was detected. */
  readonly recovery?: Recovery;
  /** From the failure to the moment at which guests can run again, in milliseconds, by a clock outside the box. */
  readonly outageMs?: number;
  readonly vms: readonly VmVerdict[];
  /** Whether a new VM could be created afterwards; absent where it was not tried. */
  readonly newVm?: boolean;
  readonly verdict: Verdict;
}

export type Verdict =
  | { readonly kind: 'success'; readonly summary: string }
  | { readonly kind: 'failure'; readonly summary: string };
