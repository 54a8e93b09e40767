/** From a trial to what the CLI prints: the story for the timeline, the line of the tally, the JSON object. Pure. */
import type { Trial } from '../campaign/trial.js';
import { unreachable } from '../common/errors.js';
import type { Recovery } from '../recover/outcome.js';
import type { Plan } from '../recover/plan.js';
import type { Story, VmVerdict } from '../report/story.js';
import type { RunResult, Tally } from '../report/tally.js';
import type { Box } from '../testbed/box.js';

/** A trial in which something was broken. */
export type InjectedTrial = Trial & Required<Pick<Trial, 'point'>>;

export const isInjected = (trial: Trial): trial is InjectedTrial => trial.point !== undefined;

type Setting = Pick<Box, 'spec' | 'files'>;

export function storyOf({ spec, files }: Setting, trial: InjectedTrial, seed: number): Story {
  const { point, what, brokenAtMs, outageMs, newVm, recoveries } = trial;
  const [recovery] = recoveries;
  return {
    setting: `Xen ${files.xenVersion}, ${spec.cpus} CPUs, ${spec.memoryMiB} MiB, seed ${seed}`,
    injection: {
      cpu: point.cpu,
      at: point.at,
      what: `${what ?? 'broken'}, while it worked for ${point.vcpu}`,
      atMs: brokenAtMs,
    },
    ...(recovery === undefined ? {} : { recovery }),
    ...(outageMs === undefined ? {} : { outageMs }),
    vms: trial.verdict.vms.map(
      (vm): VmVerdict => ({
        name: vm.name,
        kind: vm.kind,
        alive: vm.alive,
        intact: vm.intact,
        note: vm.reason ?? `${vm.progress} steps of work since`,
      }),
    ),
    ...(newVm === undefined ? {} : { newVm: newVm.kind === 'created' }),
    verdict: { kind: trial.verdict.success ? 'success' : 'failure', summary: summaryOf(trial) },
  };
}

function summaryOf({ verdict, cause }: InjectedTrial): string {
  if (verdict.success && verdict.noVmf) return 'every VM is alive with its work intact, and a new VM was created';
  if (verdict.success) return `all but one AppVM are unaffected, and a new VM was created (${cause ?? 'unknown'})`;
  return cause ?? 'unknown';
}

export function runResult(trial: InjectedTrial, index: number): RunResult {
  const { verdict, point, cause, recoveries } = trial;
  const latencyMs = recoveries[0]?.latencyMs;
  return {
    run: index + 1,
    verdict: verdict.success ? 'success' : 'failure',
    noVmf: verdict.noVmf,
    point: point.at,
    ...(cause === undefined ? {} : { cause }),
    ...(latencyMs === undefined ? {} : { latencyMs }),
  };
}

/** The final object of `demo --json`; documented in docs/reference/cli.md. */
export function demoObject({ spec, files }: Setting, trial: InjectedTrial, seed: number): object {
  const [failure] = trial.failures;
  const [recovery] = trial.recoveries;
  return {
    verdict: trial.verdict.success ? 'success' : 'failure',
    noVmf: trial.verdict.noVmf,
    ...(trial.cause === undefined ? {} : { cause: trial.cause }),
    seed,
    xen: files.xenVersion,
    cpus: spec.cpus,
    memoryMiB: spec.memoryMiB,
    injection: { cpu: trial.point.cpu, vcpu: trial.point.vcpu, point: trial.point.at, steps: trial.point.steps },
    detection:
      failure === undefined
        ? null
        : {
            kind: failure.kind,
            cpu: failure.cpu,
            at: failure.at,
            summary: failure.summary,
            afterMs: round(failure.detectedAtMs - trial.brokenAtMs),
          },
    latencyMs: recovery === undefined ? null : round(recovery.latencyMs),
    outageMs: trial.outageMs === undefined ? null : round(trial.outageMs),
    phases: recovery === undefined ? null : recovery.phases,
    vms: trial.verdict.vms.map(({ name, kind, alive, intact, reason }) => ({
      name,
      kind: kind === 'dom0' ? 'pv' : kind,
      alive,
      intact,
      ...(reason === undefined ? {} : { reason }),
    })),
    newVm: trial.newVm?.kind === 'created',
    ...(recovery === undefined ? { steps: [], cpus: [] } : recoveryObject(recovery)),
  };
}

/** The final object of `demo --runs N --json`. */
export function tallyObject(setting: Setting, trials: readonly InjectedTrial[], seed: number, tally: Tally): object {
  return {
    verdict: tally.success === tally.runs ? 'success' : 'failure',
    seed,
    xen: setting.files.xenVersion,
    cpus: setting.spec.cpus,
    memoryMiB: setting.spec.memoryMiB,
    tally,
    runs: trials.map((trial, index) => ({ run: index + 1, ...demoObject(setting, trial, seed) })),
  };
}

/** The part of a recovery that is told to programs: also in the events of `guard --json`. */
export function recoveryObject({ plan }: Recovery): object {
  return {
    steps: plan.steps.map(({ name, removes, findings, edits, durationMs }) => ({
      name,
      removes,
      findings,
      edits,
      durationMs: round(durationMs),
    })),
    cpus: plan.cpus,
  };
}

export interface PlanObject {
  readonly mechanism: string;
  readonly edits: readonly object[];
  readonly steps: readonly object[];
  readonly cpus: Plan['cpus'];
  readonly problems: Plan['problems'];
}

/** A whole plan, with bytes as hexadecimal text and 64-bit values as `0x...`, so that equal plans are equal text. */
export function planObject({ mechanism, edits, steps, cpus, problems }: Plan): PlanObject {
  const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
  const plain = (value: unknown): unknown => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value);
  return {
    mechanism,
    edits: edits.map((edit) => {
      const { kind, step, reason } = edit;
      switch (edit.kind) {
        case 'memory':
        case 'text':
          return {
            kind,
            step,
            reason,
            address: plain(edit.address),
            before: hexOf(edit.before),
            after: hexOf(edit.after),
          };
        case 'registers': {
          const set = Object.fromEntries(Object.entries(edit.set).map(([name, value]) => [name, plain(value)]));
          return { kind, step, reason, cpu: edit.cpu, set };
        }
        case 'call':
          return { kind, step, reason, cpu: edit.cpu, function: edit.function, arguments: edit.arguments.map(plain) };
        default:
          return unreachable(edit);
      }
    }),
    steps: steps.map(({ name, removes, source, findings, edits: count }) => ({
      name,
      removes,
      source,
      findings,
      edits: count,
    })),
    cpus,
    problems,
  };
}

const round = (milliseconds: number): number => Math.round(milliseconds * 1000) / 1000;
