/**
 * LockLeak: a lock is held and nobody will let it go, as after a path that returns without unlocking. One of the spinlocks that
 * Xen has at that moment, in globals, per-CPU data and heap objects, which is free is taken: its next ticket is handed out.
 */
import { z } from 'zod';
import { listDomains } from '../../xen/domains.js';
import { heapLocks, isHeld, type LockInstance, lockName, staticLocks } from '../../xen/locks.js';
import type { Xen } from '../../xen/xen.js';
import type { FaultModel } from '../model.js';

const options = z.strictObject({
  type: z.literal('lock-leak'),
  /** Only locks whose name contains this, such as `event_lock`; default any. */
  lock: z.string().min(1).optional(),
  /** Where the lock is: a global or per-CPU variable, or an object on the heap. */
  where: z.enum(['static', 'heap', 'any']).default('any'),
  /** Whom the lock says it is held by, where it says so (recursive locks). */
  holder: z.enum(['nobody', 'other-cpu', 'either']).default('either'),
});

const choiceSchema = z.object({
  /** Which of the locks that fit, as a part of their number. */
  pick: z.number().min(0).lt(1),
  lock: z.string().optional(),
  where: z.enum(['static', 'heap', 'any']),
  holder: z.enum(['nobody', 'other-cpu']),
});

export const lockLeak: FaultModel<typeof options> = {
  name: 'lock-leak',
  summary: 'a free spinlock of Xen becomes held, and stays so',
  options,
  choose(random, { lock, where, holder }) {
    return {
      pick: random.fraction(),
      ...(lock === undefined ? {} : { lock }),
      where,
      holder: holder === 'either' ? random.pick(['nobody', 'other-cpu'] as const) : holder,
    };
  },
  async apply({ target, state, xen }, choice) {
    const { pick, lock, where, holder } = choiceSchema.parse(choice);
    const free = freeSpinlocks(xen, where).filter((one) => lock === undefined || lockName(one).includes(lock));
    const chosen = free[Math.floor(pick * free.length)];
    if (chosen === undefined) return { kind: 'not-reached', why: `no free spinlock fits "${lock ?? where}"` };
    const cpu = (state.cpu + 1) % xen.cpuCount;
    const physical = xen.memory.physicalAddress(chosen.address);
    target.machine.ram.write(physical, heldWord(xen.memory.u32(chosen.address)));
    const told = holder === 'other-cpu' ? `by CPU ${cpu}` : 'by nobody';
    if (holder === 'other-cpu') target.machine.ram.write(physical + 4, recursionWord(cpu));
    return { kind: 'applied', what: `lock ${lockName(chosen)} held ${told} (1 of ${free.length} free ones)` };
  },
};

function freeSpinlocks(xen: Xen, where: 'static' | 'heap' | 'any'): LockInstance[] {
  const all: LockInstance[] = [];
  if (where !== 'heap') all.push(...staticLocks(xen));
  if (where !== 'static') all.push(...heapLocks(xen, listDomains(xen), 'no-grant-entries'));
  return all.filter((lock) => lock.kind === 'spinlock' && !isHeld(xen, lock));
}

/** A ticket lock's word with one more ticket handed out: the ticket being served is in the lower half. */
export function heldWord(tickets: number): Uint8Array {
  const next = ((tickets >>> 16) + 1) & 0xffff;
  return Uint8Array.of(tickets & 0xff, (tickets >>> 8) & 0xff, next & 0xff, next >>> 8);
}

/** `recurse_cpu` in the lower 12 bits, `recurse_cnt` = 1 above (Xen 4.17: xen/spinlock.h). */
const recursionWord = (cpu: number): Uint8Array => Uint8Array.of(cpu & 0xff, ((cpu >>> 8) & 0xf) | 0x10);
