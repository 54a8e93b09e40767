/**
 * Did the VMs survive? Computed from what they reported before a failure and what they report after the recovery. Pure.
 *
 * Alive: the VM's work goes on after the recovery. Intact: it goes on from where it was, each digest is the one that we compute
 * ourselves, and none of the VM's own checks has failed. The terms are those of ReHype and NiLiHype: a recovery succeeds when at
 * most one AppVM is affected and new VMs can be created; noVMF is when no VM is affected at all.
 */
import type { VmKind, VmReport } from '../testbed/reports.js';
import { ChainOracle } from './chain.js';

/** The reports of all VMs at one moment. `atMs`: performance.now(). */
export interface Sample {
  readonly atMs: number;
  readonly vms: readonly VmReport[];
}

export interface VmVerdict {
  readonly name: string;
  readonly kind: VmKind;
  readonly alive: boolean;
  readonly intact: boolean;
  /** Steps done since the recovery. */
  readonly progress: number;
  /** Why it is not alive or not intact; absent when all is well. */
  readonly reason?: string;
}

export interface VerdictOptions {
  /** VMs that have to be there, even when none of them ever reported. */
  readonly expected: readonly { readonly name: string; readonly kind: VmKind }[];
  /** Steps that a VM must have done since the recovery to count as alive. Default 2: one may have been all but done before. */
  readonly steps?: number;
  readonly oracle?: ChainOracle;
}

/**
 * @param before the last sample before the failure
 * @param resumed the sample taken as the box was resumed
 * @param after later samples, ascending; the last one decides
 */
export function judge(before: Sample, resumed: Sample, after: readonly Sample[], options: VerdictOptions): VmVerdict[] {
  const oracle = options.oracle ?? new ChainOracle();
  const samples = [before, resumed, ...after];
  return options.expected.map(({ name, kind }) => {
    const reports = samples.flatMap((sample) => sample.vms.filter((vm) => vm.name === name));
    const baseline = of(resumed, name) ?? of(before, name);
    const last = after.length === 0 ? undefined : of(after[after.length - 1]!, name);
    const progress = last && baseline ? last.n - baseline.n : 0;
    const alive = progress >= (options.steps ?? 2);
    const damage = damageIn(name, reports, oracle);
    const silent = alive ? undefined : notAlive(baseline, last);
    const reason = [silent, damage].filter((text) => text !== undefined).join('; ');
    const verdict = { name, kind, alive, intact: alive && damage === undefined, progress };
    return reason === '' ? verdict : { ...verdict, reason };
  });
}

const of = (sample: Sample, name: string): VmReport | undefined => sample.vms.find((vm) => vm.name === name);

function notAlive(baseline: VmReport | undefined, last: VmReport | undefined): string {
  if (!baseline) return 'it never reported';
  if (!last) return `its report at step ${baseline.n} is gone`;
  return last.n < baseline.n ? `it went back from step ${baseline.n} to ${last.n}` : `it stands at step ${last.n}`;
}

/** What is wrong with a VM's work; `undefined` when nothing is. */
function damageIn(name: string, reports: readonly VmReport[], oracle: ChainOracle): string | undefined {
  const first = reports[0];
  if (!first) return undefined;
  let previous = first;
  for (const report of reports) {
    if (report.n < previous.n) return `its work went back from step ${previous.n} to ${report.n}`;
    if (report.errors > 0)
      return `its own check "${report.note}" failed (${report.errors} failures by step ${report.n})`;
    if (report.digest !== oracle.digest(name, report.n, report.work)) return `its digest at step ${report.n} is wrong`;
    previous = report;
  }
  return undefined;
}

/** The tally of one recovery, in the words of the papers. */
export interface BoxVerdict {
  readonly vms: readonly VmVerdict[];
  /** No VM is affected. */
  readonly noVmf: boolean;
  /** PrivVM and all AppVMs but at most one are alive and intact, and a new VM can be created. */
  readonly success: boolean;
}

export function summarize(vms: readonly VmVerdict[], newVm: boolean): BoxVerdict {
  const affected = vms.filter((vm) => !(vm.alive && vm.intact));
  const dom0Affected = affected.some((vm) => vm.kind === 'dom0');
  return {
    vms,
    noVmf: affected.length === 0,
    success: newVm && !dom0Affected && affected.length <= 1,
  };
}

/** Whether the verdict is good already, so that nobody has to wait for more samples. */
export const allWell = (vms: readonly VmVerdict[]): boolean => vms.every((vm) => vm.alive && vm.intact);
