/** Why a domain or a vCPU does not run is counted (Xen 4.17, common/domain.c `domain_pause`, `vcpu_pause`). */
import type { XenObject } from './object.js';

/** What is wrong with the counts of a `struct domain` or `struct vcpu`; `undefined` when they can be. */
export function pauseDefect(object: XenObject): string | undefined {
  const all = object.num('pause_count') | 0;
  const noted = object.num('controller_pause_count');
  if (all < 0 || noted < 0) return `${Math.min(all, noted)} times`;
  return all < noted ? `${all} times, and ${noted} times by the toolstack alone` : undefined;
}
