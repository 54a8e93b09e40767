/** Events of `guard --json`: one object a line. The schema is docs/reference/events.md; names and fields are kept. */
import type { GuardEvent } from '../guard/guard.js';
import type { Recovery } from '../recover/outcome.js';
import { recoveryObject } from './trial-report.js';

/** @param at when it happened, by the host's wall clock */
export function eventObject(event: GuardEvent, at: Date): object {
  const { kind, ...rest } = event;
  const head = { event: kind, at: at.toISOString() };
  switch (event.kind) {
    case 'recovered':
      return { ...head, ...outcomeObject(event.recovery) };
    case 'not-recovered':
      return {
        ...head,
        why: event.why,
        ...(event.recovery === undefined ? { failure: event.failure } : outcomeObject(event.recovery)),
      };
    default:
      return { ...head, ...rest };
  }
}

function outcomeObject(recovery: Recovery): object {
  const { failure, latencyMs, phases, result, capsule, plan } = recovery;
  return {
    failure,
    result,
    mechanism: plan.mechanism,
    latencyMs,
    phases,
    ...(capsule === undefined ? {} : { capsule }),
    edits: plan.edits.length,
    problems: plan.problems,
    ...recoveryObject(recovery),
  };
}
