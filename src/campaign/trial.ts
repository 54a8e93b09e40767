/**
 * One trial: break the hypervisor of a running box, let the guard recover it, and find out what became of the VMs and
 * whether a new one can be created. What the target does is the result; only what goes wrong on our side is thrown.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isNinelivesError } from '../common/errors.js';
import type { Random } from '../common/random.js';
import type { Failure } from '../detect/failure.js';
import { Guard, type GuardEvent } from '../guard/guard.js';
import type { Target } from '../guard/target.js';
import { type FaultSpec, type InjectionPoint, injectOnce, type TriggerSpec } from '../inject/index.js';
import type { Recovery } from '../recover/outcome.js';
import type { Box, NewVm } from '../testbed/box.js';
import type { ChainOracle } from '../workload/chain.js';
import { allWell, type BoxVerdict, judge, type Sample, summarize, type VmVerdict } from '../workload/verdict.js';
import { keepEvidence } from './evidence.js';

export interface TrialOptions {
  readonly random: Random;
  readonly oracle: ChainOracle;
  readonly signal: AbortSignal;
  /** Default: failstop. */
  readonly fault?: FaultSpec;
  /** Default: within a second, wherever a CPU is in Xen. */
  readonly trigger?: TriggerSpec;
  /** Folder in which a capsule of each failure is kept. */
  readonly capsuleDir?: string;
  /** Called as the trial goes on, with a short phrase. */
  readonly told?: (text: string) => void;
}

export interface Trial {
  readonly point: InjectionPoint;
  /** Host-monotonic milliseconds at which the broken CPU ran on. */
  readonly brokenAtMs: number;
  /** Each failure that was seen, in order; the first is the injected one. */
  readonly failures: readonly Failure[];
  readonly recoveries: readonly Recovery[];
  /**
   * From the moment at which the broken CPU ran on to the resumption of the machine, by the host's clock: a guest on a CPU
   * that was left alone executes its next instruction then. Absent where the machine was not resumed.
   */
  readonly outageMs?: number;
  readonly verdict: BoxVerdict;
  readonly newVm?: NewVm;
  /** Why a VM is affected or the trial no success; absent when all is well. */
  readonly cause?: string;
}

/** A failure that is not seen within this time will not be seen, in milliseconds. */
const DETECTION_LIMIT_MS = 10_000;
/** VMs that do not work again after this long are lost, in milliseconds. A slow host needs most of it. */
const REVIVAL_LIMIT_MS = 20_000;
const POLL_MS = 150;

/**
 * @param box running, all VMs at work
 * @param target found in that box
 * @throws what attaching, injecting and reading throw; NL_INTERRUPTED when `signal` is aborted
 */
export async function runTrial(box: Box, target: Target, options: TrialOptions): Promise<Trial> {
  const { signal, random, capsuleDir, told = () => {} } = options;
  signal.throwIfAborted();
  const seen = new Seen();
  await box.machine.freeze();
  const guard = await Guard.attach(target, {
    onEvent: (event) => seen.note(event),
    ...(capsuleDir === undefined ? {} : { capsuleDir }),
  });
  await guard.warm;
  told('breaking the hypervisor');
  const { point } = await injectOnce(target, random, {
    signal,
    ...(options.fault === undefined ? {} : { fault: options.fault }),
    ...(options.trigger === undefined ? {} : { trigger: options.trigger }),
  });
  signal.throwIfAborted();
  const before = sampleOf(box);
  const brokenAtMs = performance.now();
  const first = await untilGone(guard.nextRecovery(DETECTION_LIMIT_MS), seen);
  const resumedAtMs = performance.now();
  const resumed = sampleOf(box);
  if (first?.result !== 'resumed') {
    return trialOf({ point, brokenAtMs, seen, vms: judge(before, resumed, [], judging(box, options)) });
  }
  told('looking at who is alive');
  const watching = untilGone(guard.run(), seen);
  try {
    const { vms, newVm } = await observe(box, before, resumed, seen, options);
    guard.stop();
    await watching;
    const trial = trialOf({ point, brokenAtMs, seen, vms, newVm, outageMs: resumedAtMs - brokenAtMs });
    if (trial.cause !== undefined && capsuleDir !== undefined) await keepEvidence(capsuleDir, box, target);
    return trial;
  } finally {
    guard.stop();
    await watching;
  }
}

/** What the guard told of. */
class Seen {
  readonly failures: Failure[] = [];
  readonly recoveries: Recovery[] = [];
  /** Why the machine does not go on. */
  end: string | undefined;

  note(event: GuardEvent): void {
    if (event.kind === 'failure') this.failures.push(event.failure);
    if (event.kind === 'recovered') this.recoveries.push(event.recovery);
    if (event.kind === 'not-recovered') {
      if (event.recovery !== undefined) this.recoveries.push(event.recovery);
      this.end = event.why;
    }
  }
}

/** A machine that stopped for good is a result and was told as one; the error that follows says nothing new. */
async function untilGone<T>(work: Promise<T>, seen: Seen): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (seen.end !== undefined && isNinelivesError(error, 'NL_QEMU_EXITED')) return undefined;
    throw error;
  }
}

const sampleOf = (box: Box): Sample => ({ atMs: performance.now(), vms: box.vms() });

const judging = (box: Box, { oracle }: TrialOptions): Parameters<typeof judge>[3] => ({
  expected: [{ name: 'dom0', kind: 'dom0' }, ...box.spec.guests.map(({ name, kind }) => ({ name, kind }))],
  oracle,
});

async function observe(
  box: Box,
  before: Sample,
  resumed: Sample,
  seen: Seen,
  options: TrialOptions,
): Promise<{ vms: VmVerdict[]; newVm: NewVm }> {
  const { signal, told = () => {} } = options;
  const after: Sample[] = [];
  const look = (): VmVerdict[] => {
    after.push(sampleOf(box));
    return judge(before, resumed, after, judging(box, options));
  };
  // dom0 creates the new VM as soon as it is seen to work; the others are watched meanwhile.
  let creation: Promise<NewVm> | undefined;
  const end = performance.now() + REVIVAL_LIMIT_MS;
  let vms: VmVerdict[];
  for (;;) {
    vms = look();
    if (creation === undefined && vms.some((vm) => vm.kind === 'dom0' && vm.alive)) {
      told('creating a new VM');
      creation = box.createVm();
    }
    if (allWell(vms) || performance.now() > end || seen.end !== undefined) break;
    await sleep(POLL_MS, undefined, { signal });
  }
  if (seen.end !== undefined || creation === undefined) {
    await creation?.catch(() => undefined);
    return { vms, newVm: { kind: 'failed', name: 'new VM', reason: 'dom0 is not there to create it' } };
  }
  const newVm = await creation;
  signal.throwIfAborted();
  // The creation is work for the hypervisor, and a hypervisor that is broken in a quiet corner may fail only now.
  return { vms: look(), newVm };
}

interface Facts {
  readonly point: InjectionPoint;
  readonly brokenAtMs: number;
  readonly seen: Seen;
  readonly vms: readonly VmVerdict[];
  readonly newVm?: NewVm;
  readonly outageMs?: number;
}

function trialOf({ point, brokenAtMs, seen, vms, newVm, outageMs }: Facts): Trial {
  const verdict = summarize(vms, newVm?.kind === 'created');
  const cause = causeOf(seen, verdict, newVm);
  return {
    point,
    brokenAtMs,
    failures: seen.failures,
    recoveries: seen.recoveries,
    verdict,
    ...(outageMs === undefined ? {} : { outageMs }),
    ...(newVm === undefined ? {} : { newVm }),
    ...(cause === undefined ? {} : { cause }),
  };
}

function causeOf(seen: Seen, { vms, success, noVmf }: BoxVerdict, newVm: NewVm | undefined): string | undefined {
  if (success && noVmf) return undefined;
  if (seen.failures.length === 0) return 'the failure was not detected';
  const parts: string[] = [];
  if (seen.end !== undefined) parts.push(seen.end);
  const [, second] = seen.failures;
  if (second !== undefined) parts.push(`failed again after the recovery: ${second.summary}`);
  if (seen.end === undefined) {
    for (const vm of vms) if (vm.reason !== undefined) parts.push(`${vm.name}: ${vm.reason}`);
    if (newVm?.kind === 'failed') parts.push(`no new VM: ${newVm.reason}`);
  }
  return parts.length === 0 ? 'unknown' : parts.join('; ');
}
