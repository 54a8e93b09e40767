/** Records beside those of trials, and what is thought of a record. Pure. */
import { isNinelivesError } from '../common/errors.js';
import type { Planned } from '../inject/index.js';
import type { RunId } from './plan.js';
import { isSuccess, plannedSchema, type RunRecord } from './record.js';

/** A run with all its choices. */
export interface RunOrder extends RunId {
  readonly planned: Planned;
}

/** The record of a run in which we failed. */
export function infraRecord(order: RunOrder, error: unknown, startedAt: string, tookMs: number): RunRecord {
  const { run, variant, planned } = order;
  return {
    run,
    ...(variant === undefined ? {} : { variant }),
    startedAt,
    tookMs: Math.round(tookMs),
    planned: plannedSchema.parse(planned),
    outcome: 'infra',
    failures: [],
    vms: [],
    cause: error instanceof Error ? error.message : String(error),
    errorCode: isNinelivesError(error) ? error.code : 'NL_INTERNAL',
    evidence: [],
    spentMs: {},
  };
}

/** Whether people should look at it: everything but what is as it should be. */
export const isNoteworthy = (record: RunRecord): boolean =>
  record.outcome === 'sdc' ||
  record.outcome === 'infra' ||
  record.outcome === 'false-alarm' ||
  (record.outcome === 'detected' && (!isSuccess(record) || record.end !== 'no-vmf'));
