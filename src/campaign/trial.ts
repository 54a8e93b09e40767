/**
 * One trial: break the hypervisor of a running box, let the guard recover it, and find out what became of the VMs and
 * whether a new one can be created. What the target does is the result; only what goes wrong on our side is thrown.
 */
import { Guard } from '../guard/guard.js';
import type { Target } from '../guard/target.js';
import { type InjectionPoint, inject, type Planned } from '../inject/index.js';
import type { Mechanism } from '../recover/mechanism.js';
import { microreset } from '../recover/microreset/index.js';
import type { Box, NewVm } from '../testbed/box.js';
import type { ChainOracle } from '../workload/chain.js';
import { type BoxVerdict, type Sample, summarize, type VmVerdict } from '../workload/verdict.js';
import { listDomains } from '../xen/domains.js';
import { endedVm } from '../xen/ended.js';
import type { Xen } from '../xen/xen.js';
import { type Classified, classify } from './classify.js';
import { consoleMark, keepEvidence } from './evidence.js';
import { HostShare } from './host-share.js';
import { DEFAULT_LIMITS, type ObserveLimits, Observer } from './observe.js';
import { OutsideWatch } from './outside.js';
import { Sightings } from './sightings.js';
import { Stopwatch } from './stopwatch.js';

export interface TrialOptions {
  /** What is broken, and when. Absent: nothing, a golden run. */
  readonly planned?: Planned;
  readonly oracle: ChainOracle;
  readonly signal: AbortSignal;
  readonly limits?: ObserveLimits;
  readonly mechanism?: Mechanism;
  /** Steps of the mechanism that are left out. */
  readonly without?: ReadonlySet<string>;
  readonly commitUnchecked?: boolean;
  /** Whether the guard compares text; see `GuardOptions`. */
  readonly text?: 'watch' | 'ignore';
  /** Whether this process has made recoveries before, so that the guard need not rehearse. */
  readonly warm?: boolean;
  /** Folder in which a capsule of each failure, and what is known of a trial that did not go well, are kept. */
  readonly evidenceDir?: string;
  /** Text kept in capsules. */
  readonly note?: string;
  /** Called as the trial goes on, with a short phrase. */
  readonly told?: (text: string) => void;
}

export interface Trial extends Classified {
  /** Where the fault hit; absent when none was made. */
  readonly point?: InjectionPoint;
  /** What the fault did, one line. */
  readonly what?: string;
  /** Host-monotonic milliseconds at which the broken machine ran on. */
  readonly brokenAtMs: number;
  readonly failures: Sightings['failures'];
  readonly recoveries: Sightings['recoveries'];
  /** From the moment at which the broken machine ran on to its stop. */
  readonly detectionMs?: number;
  /**
   * From the moment at which the broken machine ran on to its resumption, by the host's clock: a guest on a CPU that was left
   * alone executes its next instruction then. Absent where the machine was not resumed.
   */
  readonly outageMs?: number;
  /** The longest time without an answer that a sender outside the box saw around the failure; NetBench setups only. */
  readonly outsideOutageMs?: number;
  readonly verdict: BoxVerdict;
  readonly newVm?: NewVm;
  /** Share of the time of the observation in which the box wanted to run and its host did not let it, in 0..1. */
  readonly hostWaited: number;
  /** Where the time went, in milliseconds by phase. */
  readonly spentMs: Readonly<Record<string, number>>;
}

/** Rehearsals of a guard in a process that has recovered before: they fill the caches for this machine, and that is all. */
const WARM_REHEARSALS = 1;

/**
 * @param box running, all VMs at work
 * @param target found in that box
 * @throws what attaching, injecting and reading throw; NL_INTERRUPTED when `signal` is aborted
 */
export async function runTrial(box: Box, target: Target, options: TrialOptions): Promise<Trial> {
  const { signal, planned, evidenceDir, told = () => {}, limits = DEFAULT_LIMITS } = options;
  signal.throwIfAborted();
  const watch = new Stopwatch();
  const sample = (): Sample => ({ atMs: performance.now(), vms: box.vms() });
  const seen = new Sightings(sample);
  const share = new HostShare(() => box.machine.pid);
  const outside = new OutsideWatch(box.outside, () => share.slowdown);
  outside.held(true);
  let repair: (() => Promise<void>) | undefined;
  const mark = consoleMark(box);
  await box.machine.freeze();
  const guard = await Guard.attach(target, {
    onEvent: (event) => seen.note(event),
    beforeRecovery: async () => {
      await repair?.();
      repair = undefined;
    },
    ...(options.warm === true ? { rehearsals: WARM_REHEARSALS } : {}),
    ...(options.mechanism === undefined ? {} : { mechanism: options.mechanism }),
    ...(options.without === undefined ? {} : { without: options.without }),
    ...(options.text === undefined ? {} : { text: options.text }),
    ...(options.commitUnchecked === undefined ? {} : { commitUnchecked: options.commitUnchecked }),
    ...(evidenceDir === undefined ? {} : { capsuleDir: evidenceDir, capsuleNote: () => options.note ?? '' }),
  });
  await guard.warm;
  watch.lap('attach');

  let injection: Awaited<ReturnType<typeof inject>> | undefined;
  if (planned !== undefined) {
    told('breaking the hypervisor');
    injection = await inject(target, planned, { signal, held: (held) => outside.held(held), objection: endedBefore });
    signal.throwIfAborted();
    if (injection.kind === 'injected') repair = injection.applied.repair;
    watch.lap('trigger');
  }

  const before = sample();
  const brokenAtMs = performance.now();
  seen.brokenAt(brokenAtMs);
  share.reset();
  const wanted = injection?.kind === 'not-reached' ? 'nothing' : planned === undefined ? 'golden' : 'recovery';
  const observer = new Observer({
    box,
    seen,
    outside,
    before,
    sample,
    limits,
    oracle: options.oracle,
    signal,
    told,
    wanted,
  });
  if (wanted !== 'nothing') told(planned === undefined ? 'watching' : 'waiting for the failure');
  const { vms, newVm, outsideOutageMs } = await observer.watch(guard);
  const hostWaited = share.waited;
  watch.add(observer.spentMs);
  watch.lap(undefined);

  const classified = classify({
    injection:
      injection === undefined ? 'golden' : injection.kind === 'injected' ? 'injected' : { notReached: injection.why },
    failures: seen.failures.map((failure) => failure.summary),
    resumed: seen.resumedCount,
    lost: seen.lost,
    vms,
    newVm,
  });
  if (classified.cause !== undefined && classified.outcome !== 'not-reached' && evidenceDir !== undefined) {
    const works = seen.lost === undefined && vms.some((vm) => vm.kind === 'dom0' && vm.alive);
    await keepEvidence(evidenceDir, box, target, {
      mark,
      dom0: works ? 'works' : 'lost',
      mechanism: options.mechanism ?? microreset,
      cause: classified.cause,
      pings: outside.table(seen.outages, observer.marks, brokenAtMs),
    });
  }
  watch.lap('evidence');
  return {
    ...classified,
    ...(injection?.kind === 'injected' ? { point: injection.point, what: injection.applied.what } : {}),
    brokenAtMs,
    failures: seen.failures,
    recoveries: seen.recoveries,
    ...timesOf(seen, brokenAtMs),
    verdict: verdictOf(vms, newVm),
    ...(newVm === undefined ? {} : { newVm }),
    ...(outsideOutageMs === undefined ? {} : { outsideOutageMs }),
    hostWaited,
    spentMs: watch.spentMs,
  };
}

/** A VM that has ended before there is a fault would pass for one that the fault cost. */
function endedBefore(xen: Xen): string | undefined {
  const ended = endedVm(xen, listDomains(xen));
  return ended === undefined ? undefined : `${ended} before there was a fault`;
}

const verdictOf = (vms: readonly VmVerdict[], newVm: NewVm | undefined): BoxVerdict =>
  summarize(vms, newVm?.kind === 'created');

function timesOf({ failures, recoveries }: Sightings, brokenAtMs: number): Pick<Trial, 'detectionMs' | 'outageMs'> {
  const [failure] = failures;
  const [recovery] = recoveries;
  if (failure === undefined) return {};
  const detectionMs = failure.detectedAtMs - brokenAtMs;
  return recovery?.result === 'resumed' ? { detectionMs, outageMs: detectionMs + recovery.latencyMs } : { detectionMs };
}
