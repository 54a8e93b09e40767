/** Sets of CPUs (`cpumask_t`): one bit each. */
import type { XenMemory } from './memory.js';

export const isInMask = (memory: XenMemory, mask: bigint, cpu: number): boolean =>
  (memory.u8(mask, cpu >> 3) & (1 << (cpu & 7))) !== 0;
