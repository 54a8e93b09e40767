import { heldLineLocks, isHeld, lockName } from '../../xen/locks.js';
import type { AuditPart } from './part.js';

export const locks: AuditPart = {
  name: 'locks',
  answersFor: ['static-locks', 'heap-locks'],
  run({ plan, xen, locks: all }) {
    const held = [...all.static, ...all.heap].filter((lock) => isHeld(xen, lock));
    for (const name of new Set([...held, ...heldLineLocks(xen)].map(lockName)))
      plan.problem(`${name} would still be held`);
  },
};
