/**
 * Whose fault it is when Xen crashes a domain. A domain that went wrong by itself (no stack for its kernel, registers it cannot have)
 * looks just like one whose hypervisor went wrong; dom0 crashes with the whole machine. What happens next tells them apart: Xen is
 * recovered and the domain goes on where it was. If the fault was Xen's, it lives. If its own state is gone, it is
 * crashed again at once, and that is let happen: the others go on without it.
 */
import type { Failure } from './failure.js';

/** A domain that was given back its CPU and crashes within this time crashes by itself, in milliseconds of host time. */
const AT_ONCE_MS = 10_000;

export class SecondChances {
  /** When each domain was last to be crashed, by number. */
  readonly #lastMs = new Map<number, number>();

  /** Whether this is a domain's own end. Call it once with each failure that is seen. */
  isOwnEnd({ domain, detectedAtMs }: Failure): boolean {
    if (domain === undefined) return false;
    const lastMs = this.#lastMs.get(domain);
    this.#lastMs.set(domain, detectedAtMs);
    return lastMs !== undefined && detectedAtMs - lastMs < AT_ONCE_MS;
  }
}
