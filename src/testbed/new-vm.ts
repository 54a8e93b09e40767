/** What the report of a VM that was just created says about it. Pure. */
import type { VmReport } from './reports.js';
import { mixAfter } from './unikernel/mix.js';
import type { Stage } from './unikernel/report.js';
import type { Check } from './unikernel/runtime.js';

export type NewVmState =
  /** It has done a step of its work, which is right. */
  | { readonly kind: 'works' }
  | { readonly kind: 'failed'; readonly reason: string }
  /** It has done no step yet; the reason is the one to tell if it never does. */
  | { readonly kind: 'waiting'; readonly reason: string };

/** @param report the new VM's, if it has made one */
export function newVmState(report: VmReport | undefined): NewVmState {
  if (report === undefined) return { kind: 'waiting', reason: 'its kernel does not run' };
  const { name, n, digest, errors, note, work, stage } = report;
  if (errors > 0) return { kind: 'failed', reason: FAILED[note as Check] ?? `its check "${note}" failed` };
  if (n === 0) return { kind: 'waiting', reason: WAITING[stage as Stage] ?? 'it does not begin its work' };
  if (work !== 'files' && digest !== mixAfter(name, n, work))
    return { kind: 'failed', reason: `its digest at step ${n} is wrong` };
  return { kind: 'works' };
}

const WAITING: Readonly<Record<Stage, string>> = {
  start: 'it does not get through its start',
  xenstore: 'XenStore does not answer it',
  backend: 'its block device never connected',
  write: 'its block device does not end a write',
  read: 'its block device does not end a read',
  work: 'it stands still in its first step',
  rest: 'its timer never came',
};

const FAILED: Readonly<Record<Check, string>> = {
  hypercall: 'a hypercall of it failed',
  xenstore: 'XenStore gave it an error',
  backend: 'the backend closed its block device',
  sectors: 'its block device is smaller than it should be',
  disk: 'its block device reported an error',
  answer: 'its block device answered a request that it had not made',
  grant: 'the backend kept pages that it should have given back',
  data: 'what it read from its block device differs from what it had written',
};
