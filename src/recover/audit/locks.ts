import { isHeld, lockName } from '../../xen/locks.js';
import type { AuditPart } from './part.js';

export const locks: AuditPart = {
  name: 'locks',
  answersFor: ['static-locks', 'heap-locks'],
  run({ plan, xen, locks: all }) {
    for (const list of [all.static, all.heap]) {
      for (const lock of list) if (isHeld(xen, lock)) plan.problem(`${lockName(lock)} would still be held`);
    }
  },
};
