/**
 * LockLeak: a lock is held and nobody will let it go, as after a path that returns without unlocking. One of the spinlocks that
 * Xen has at that moment, in globals, per-CPU data and heap objects, which is free is taken: its next ticket is handed out.
 *
 * Most of a few thousand locks guard what nobody uses for minutes. `where: next` takes the one that is asked for next, so
 * that somebody notices.
 */
import { z } from 'zod';
import { listDomains } from '../../xen/domains.js';
import { heapLocks, isHeld, type LockInstance, lockName, staticLocks } from '../../xen/locks.js';
import type { Xen } from '../../xen/xen.js';
import type { Applied, FaultModel, NotReached, Site } from '../model.js';
import { knownOf } from '../names.js';
import { runToAny } from '../run-to.js';
import { siteOf } from '../site.js';

const WHERE = ['static', 'heap', 'any', 'next'] as const;

const options = z.strictObject({
  type: z.literal('lock-leak'),
  /** Only locks whose name contains this, such as `event_lock`; default any. */
  lock: z.string().min(1).optional(),
  /** Where the lock is: a global or per-CPU variable, or an object on the heap; `next`: wherever the next is that a CPU asks for. */
  where: z.enum(WHERE).default('any'),
  /** Whom the lock says it is held by, where it says so (recursive locks). */
  holder: z.enum(['nobody', 'other-cpu', 'either']).default('either'),
});

const choiceSchema = z.object({
  /** Which of the locks that fit, as a part of their number. */
  pick: z.number().min(0).lt(1),
  lock: z.string().optional(),
  where: z.enum(WHERE),
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
  async apply(site, choice) {
    const { pick, lock, where, holder } = choiceSchema.parse(choice);
    if (where === 'next') return leakNext(site);
    const { target, state, xen } = site;
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

/** Functions that wait for a spinlock, whose address is their first argument (Xen 4.17, common/spinlock.c). */
const TAKERS = ['_spin_lock', '_spin_lock_irq', '_spin_lock_irqsave'];
const ASKED_LIMIT_MS = 5000;

async function leakNext({ target, control, xen }: Site): Promise<Applied | NotReached> {
  const asking = await runToAny(control, knownOf(xen, TAKERS), ASKED_LIMIT_MS);
  if (asking === undefined) return { kind: 'not-reached', why: `no lock was asked for within ${ASKED_LIMIT_MS} ms` };
  const site = await siteOf(target, control, asking.cpu);
  const { rdi, rsp } = site.state.registers;
  target.machine.ram.write(site.xen.memory.physicalAddress(rdi), heldWord(site.xen.memory.u32(rdi)));
  const caller = xen.profile.describe(site.xen.memory.u64(rsp));
  return { kind: 'applied', what: `the lock at 0x${rdi.toString(16)} that ${caller} asks for is held by nobody`, site };
}

function freeSpinlocks(xen: Xen, where: 'static' | 'heap' | 'any'): LockInstance[] {
  const all: LockInstance[] = [];
  if (where !== 'heap') all.push(...staticLocks(xen));
  if (where !== 'static') all.push(...heapLocks(xen, listDomains(xen), { grantEntries: false }));
  return all.filter((lock) => lock.kind === 'spinlock' && !isHeld(xen, lock));
}

/** A ticket lock's word with one more ticket handed out: the ticket being served is in the lower half. */
export function heldWord(tickets: number): Uint8Array {
  const next = ((tickets >>> 16) + 1) & 0xffff;
  return Uint8Array.of(tickets & 0xff, (tickets >>> 8) & 0xff, next & 0xff, next >>> 8);
}

/** `recurse_cpu` in the lower 12 bits, `recurse_cnt` = 1 above (Xen 4.17: xen/spinlock.h). */
const recursionWord = (cpu: number): Uint8Array => Uint8Array.of(cpu & 0xff, ((cpu >>> 8) & 0xf) | 0x10);
