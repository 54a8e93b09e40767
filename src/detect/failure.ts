/** "The target failed": data, never an exception. What was seen, where, and when by a clock outside the box. */

export type FailureKind =
  /** Xen's own panic path: `panic()`, a failed assertion. */
  | 'panic'
  /** A trap in Xen's own code that it has no handler for. */
  | 'fatal-trap'
  /** `BUG()` in Xen's code, or a state that Xen has one for. */
  | 'bug'
  /** A double fault: the stack or the descriptor tables of a CPU are unusable. */
  | 'double-fault'
  /** Xen halts or restarts the machine. */
  | 'halt'
  /** Xen ends a domain for something that the domain is said to have done. */
  | 'domain-crash'
  /** Xen's text or read-only data are not what they were, whether or not anybody has executed them since. */
  | 'damaged-text'
  /** QEMU itself reports a shutdown, reset or internal error (a triple fault ends here). */
  | 'machine-stop'
  /** A CPU executes in Xen and makes no progress. */
  | 'hang';

export interface Failure {
  readonly kind: FailureKind;
  /** The CPU on which the failure was seen; absent where the machine as a whole stopped. */
  readonly cpu?: number;
  /** Where it was seen, as `function+offset`. */
  readonly at?: string;
  /** Whom Xen ends, for `domain-crash`, or for whom it halts the machine: number of a domain. */
  readonly domain?: number;
  /** One sentence for people: what was seen. */
  readonly summary: string;
  /** Host-monotonic milliseconds at which the machine stopped (or the hang was declared). */
  readonly detectedAtMs: number;
  /** For a hang: how long the CPU had not made progress, in milliseconds of host time. */
  readonly stalledMs?: number;
}
