/**
 * The audit of a plan before it is committed: reads Xen as the plan would leave it. What does not pass is a problem,
 * and a plan with problems is not committed. So is what cannot be read: nobody knows then whether it is right.
 *
 * A step that gave up has left something neither repaired nor found to be right. Where a part of the audit looks at the same
 * things, that decides; where none does, the plan is refused. It is not for the sake of a request that may be made twice or leave
 * a grant pinned: that concerns one guest, and Xen is valid all the same.
 */
import { attempt } from '../xen/damage.js';
import { nesting, ownWords, pageTables, places, requests, returns, switches } from './audit/cpus.js';
import { callbacks, tasklets, timers } from './audit/deferred.js';
import { counts, events, lists } from './audit/domains.js';
import { guestInterrupts, interruptLines } from './audit/lines.js';
import { locks } from './audit/locks.js';
import { freeLists, freePages } from './audit/memory.js';
import type { AuditPart } from './audit/part.js';
import { scheduler } from './audit/scheduler.js';
import type { Step, StepContext } from './step.js';

export const AUDIT: readonly AuditPart[] = [
  locks,
  timers,
  tasklets,
  callbacks,
  scheduler,
  freeLists,
  freePages,
  lists,
  counts,
  events,
  interruptLines,
  guestInterrupts,
  places,
  switches,
  pageTables,
  returns,
  ownWords,
  nesting,
  requests,
];

/** Steps that see to it that a guest's request is not made twice, or leaves nothing behind, and to nothing else. */
export const OF_ONE_REQUEST: ReadonlySet<string> = new Set([
  'batch-progress',
  'grant-progress',
  'grant-pins',
  'memory-ops',
  'event-binds',
  'domctl',
]);

export const auditPlan: Step = {
  name: 'audit',
  removes: 'nothing: it checks that the plan leaves a valid state',
  source: 'ours',
  run(context) {
    for (const part of AUDIT) auditPart(context, part);
    judgeGivenUp(context);
  },
};

/** Each on its own: one that cannot read what it is to look at does not hide what the others find. */
function auditPart(context: StepContext, part: AuditPart): void {
  const { plan } = context;
  plan.beginPart();
  const outcome = attempt(() => part.run(context));
  if ('damage' in outcome) plan.problem(`${part.name} cannot be read: ${outcome.damage}`);
}

function judgeGivenUp({ plan, givenUp }: StepContext): void {
  plan.beginPart();
  const answered = new Set(AUDIT.flatMap(({ answersFor = [] }) => answersFor));
  for (const [step, damage] of givenUp) {
    if (!answered.has(step) && !OF_ONE_REQUEST.has(step)) plan.problem(`given up: ${damage}`, step);
  }
}
