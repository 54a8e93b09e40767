/**
 * What a run came to, in the words of the papers and of `record.ts`. Pure.
 *
 * Where in doubt it decides against the recovery: a failure of the planner on damaged state is "not recoverable", not "we failed".
 */
import type { NewVm } from '../testbed/box.js';
import type { VmVerdict } from '../workload/verdict.js';
import type { RecoveryEnd, RunRecord } from './record.js';

export interface Observed {
  /** `golden`: nothing was to be injected. */
  readonly injection: 'golden' | 'injected' | { readonly notReached: string };
  /** What was seen, in order, one line each. */
  readonly failures: readonly string[];
  /** Recoveries after which the machine went on. */
  readonly resumed: number;
  /** Why the machine does not go on, where it does not. */
  readonly lost?: string | undefined;
  readonly vms: readonly VmVerdict[];
  /** Absent where none was to be created. */
  readonly newVm?: NewVm | undefined;
}

export interface Classified {
  readonly outcome: Exclude<RunRecord['outcome'], 'infra'>;
  readonly end?: RecoveryEnd;
  /** One line; absent where all is well. */
  readonly cause?: string;
}

export function classify(observed: Observed): Classified {
  const { injection, failures } = observed;
  const cause = causeOf(observed);
  if (injection === 'golden') return cause === undefined ? { outcome: 'golden' } : { outcome: 'false-alarm', cause };
  if (injection !== 'injected') {
    // A box that fails before anything was done to it says something about us, not about the mechanism.
    return failures.length > 0
      ? { outcome: 'false-alarm', cause: `it failed without a fault: ${failures[0]}` }
      : { outcome: 'not-reached', cause: injection.notReached };
  }
  if (failures.length === 0) {
    return cause === undefined
      ? { outcome: 'not-manifested' }
      : { outcome: 'sdc', cause: `the failure was not detected; ${cause}` };
  }
  const end = endOf(observed);
  return { outcome: 'detected', end, ...(cause === undefined ? {} : { cause }) };
}

function endOf({ vms, newVm, resumed, lost }: Observed): RecoveryEnd {
  if (resumed === 0) return 'not-recoverable';
  if (lost !== undefined) return 'failed-again';
  const hurt = vms.filter(isHurt);
  if (hurt.some((vm) => vm.kind === 'dom0')) return 'privvm';
  if (hurt.length > 1) return 'vms';
  if (newVm?.kind !== 'created') return 'no-new-vm';
  return hurt.length === 1 ? 'one-vm' : 'no-vmf';
}

const isHurt = (vm: VmVerdict): boolean => !(vm.alive && vm.intact);

function causeOf({ vms, newVm, failures, lost, injection }: Observed): string | undefined {
  const parts: string[] = [];
  if (lost !== undefined) parts.push(lost);
  if (injection === 'golden' && failures[0] !== undefined) parts.push(failures[0]);
  const [, second] = failures;
  const hurt = vms.filter(isHurt);
  const notCreated = newVm?.kind === 'failed' ? newVm : undefined;
  const isWell = lost === undefined && hurt.length === 0 && notCreated === undefined;
  if (second !== undefined && !isWell) parts.push(`failed again after the recovery: ${second}`);
  if (lost === undefined) {
    for (const vm of hurt) parts.push(`${vm.name}: ${vm.reason ?? 'unknown'}`);
    if (notCreated !== undefined) parts.push(`no new VM: ${notCreated.reason}`);
  }
  return parts.length === 0 ? undefined : parts.join('; ');
}
