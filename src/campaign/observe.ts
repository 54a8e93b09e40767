/**
 * From the moment the broken machine runs on to a certain verdict, and not longer: a trial ends as soon as everything is seen to
 * be well, and waits to its limits only when something is not.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guard } from '../guard/guard.js';
import type { Box, NewVm } from '../testbed/box.js';
import type { ChainOracle } from '../workload/chain.js';
import { judge, type Sample, type VmVerdict } from '../workload/verdict.js';
import type { OutsideVerdict, OutsideWatch } from './outside.js';
import type { Sightings } from './sightings.js';

export interface ObserveLimits {
  /** Without a failure, and with every VM at work, for this long: nothing will come. */
  readonly quietMs: number;
  /** Steps of work that each VM must have done by then. */
  readonly quietSteps: number;
  /** A failure that is not seen within this time will not be seen. */
  readonly detectionMs: number;
  /** VMs that do not work again this long after a recovery are lost. A slow host needs most of it. */
  readonly revivalMs: number;
  /** For creating a new VM, and again for its first step of work. */
  readonly newVmMs: number;
  readonly newVm: 'after-recovery' | 'always' | 'never';
}

export const DEFAULT_LIMITS: ObserveLimits = {
  quietMs: 3000,
  quietSteps: 3,
  detectionMs: 10_000,
  revivalMs: 20_000,
  newVmMs: 60_000,
  newVm: 'after-recovery',
};

export interface ObserverParts {
  readonly box: Box;
  readonly seen: Sightings;
  readonly outside: OutsideWatch;
  /** The VMs before the machine ran on. */
  readonly before: Sample;
  readonly sample: () => Sample;
  readonly limits: ObserveLimits;
  readonly oracle: ChainOracle;
  readonly signal: AbortSignal;
  readonly told: (text: string) => void;
  /** `nothing`: nothing was broken, nothing is to be seen. */
  readonly wanted: 'nothing' | 'golden' | 'recovery';
}

export interface Observation {
  readonly vms: readonly VmVerdict[];
  /** The longest time without an answer that the sender outside saw around the failure. */
  readonly outsideOutageMs?: number;
  readonly newVm?: NewVm;
}

const POLL_MS = 150;
/** Beside the time that a ping may take. */
const UNDECIDED_MS = 2000;
/** So many failures in one trial, and VMs that are not well: it is not going to be better. */
const RELAPSES = 8;

export class Observer {
  readonly #parts: ObserverParts;
  readonly #after: Sample[] = [];
  #creation: Promise<NewVm> | undefined;
  #newVm: NewVm | undefined;
  #judged: OutsideVerdict | undefined;
  /** Nobody waits any more for what is under way. */
  readonly #ended = new AbortController();
  #begunMs = 0;
  #createdFromMs = 0;
  #createdMs = 0;

  constructor(parts: ObserverParts) {
    this.#parts = parts;
  }

  /** Lets the machine run under the guard until the verdict is certain. @throws what the guard throws of our own failures */
  async watch(guard: Guard): Promise<Observation> {
    this.#begunMs = performance.now();
    const { seen, outside, wanted } = this.#parts;
    if (wanted === 'nothing') return { vms: [] };
    outside.held(false);
    let ended = false;
    let error: unknown;
    const guarding = guard
      .run()
      .catch((thrown: unknown) => {
        error = thrown;
      })
      .finally(() => {
        ended = true;
      });
    try {
      for (;;) {
        if (ended || this.#isCertain()) break;
        await sleep(POLL_MS, undefined, { signal: this.#parts.signal });
      }
    } finally {
      guard.stop();
      await guarding;
      this.#ended.abort();
      outside.held(true);
    }
    if (error !== undefined) seen.noteError(error);
    return this.#conclude();
  }

  /** Time by phase: until the failure was seen, while the VMs were watched, while the new VM was created (which overlaps). */
  get spentMs(): Record<string, number> {
    const { seen } = this.#parts;
    const detectedMs = seen.failures[0]?.detectedAtMs;
    const now = performance.now();
    return {
      ...(detectedMs === undefined ? {} : { detection: detectedMs - this.#begunMs }),
      observe: now - (detectedMs ?? this.#begunMs),
      ...(this.#creation === undefined
        ? {}
        : { newVm: (this.#createdMs === 0 ? now : this.#createdMs) - this.#createdFromMs }),
    };
  }

  #isCertain(): boolean {
    const { seen, sample, outside, limits } = this.#parts;
    if (seen.lost !== undefined) return true;
    if (seen.recovering) return false;
    this.#after.push(sample());
    const { vms, decided, isWell: allWell } = this.#judge();
    // dom0 creates the new VM as soon as it is seen to work; the others are watched meanwhile.
    if (this.#wantsNewVm() && vms.some((vm) => vm.kind === 'dom0' && vm.alive)) this.#create();
    const sinceMs = performance.now() - (seen.resumed?.atMs ?? this.#begunMs);
    if (this.#creation !== undefined && this.#newVm === undefined) return this.#isRelapsing();
    const isWell = allWell && decided && !this.#wantsNewVm();
    // A ping that is on its way at the limit gets its time.
    const isOver = (limitMs: number): boolean => sinceMs > limitMs + (decided ? 0 : outside.deadlineMs + UNDECIDED_MS);
    if (seen.failures.length > 0) return isWell || isOver(limits.revivalMs) || this.#isRelapsing();
    // A VM that seems to stand gets the time that it would have after a recovery.
    return (isWell && sinceMs >= limits.quietMs) || isOver(Math.max(limits.detectionMs, limits.revivalMs));
  }

  /**
   * Whether the hypervisor fails again and again, each time to be recovered and to fail: too seldom for the guard to call it a storm,
   * as with hangs, and without an end. Then nobody waits for it longer than twice the time that one revival gets.
   */
  #isRelapsing(): boolean {
    const { seen, limits } = this.#parts;
    const first = seen.failures[0];
    const last = seen.failures.at(-1);
    if (first === undefined || last === undefined || seen.failures.length < RELAPSES) return false;
    if (performance.now() - first.detectedAtMs < 2 * limits.revivalMs) return false;
    seen.lost = `it failed ${seen.failures.length} times, and did not come to an end: ${last.summary}`;
    return true;
  }

  #wantsNewVm(): boolean {
    const { limits, seen, wanted } = this.#parts;
    if (this.#creation !== undefined || limits.newVm === 'never') return false;
    return limits.newVm === 'always' || wanted === 'golden' || seen.failures.length > 0;
  }

  #create(): void {
    const { box, told, limits } = this.#parts;
    told('creating a new VM');
    this.#createdFromMs = performance.now();
    this.#creation = box
      .createVm(limits.newVmMs, this.#ended.signal)
      .catch((error: unknown): NewVm => ({ kind: 'failed', name: 'new VM', reason: messageOf(error) }))
      .then((newVm) => {
        this.#createdMs = performance.now();
        this.#newVm = newVm;
        return newVm;
      });
  }

  #conclude(): Observation {
    const { seen, limits } = this.#parts;
    const { vms, outageMs } = this.#judged ?? this.#judge();
    const observed = { vms, ...(outageMs === undefined ? {} : { outsideOutageMs: outageMs }) };
    if (this.#newVm !== undefined) return { ...observed, newVm: this.#newVm };
    if (this.#creation === undefined && limits.newVm === 'never') return observed;
    if (seen.failures.length === 0 && !this.#wantsNewVm()) return observed;
    return { ...observed, newVm: { kind: 'failed', name: 'new VM', reason: 'dom0 is not there to create it' } };
  }

  /** The last look is the one that decides: it was taken after the new VM was there, which is work for the hypervisor as well. */
  #judge(): OutsideVerdict {
    const { box, before, seen, outside, oracle, limits } = this.#parts;
    const expected = [
      { name: 'dom0', kind: 'dom0' as const },
      ...box.spec.guests.map(({ name, kind }) => ({ name, kind })),
    ];
    const steps = seen.failures.length === 0 ? { steps: limits.quietSteps } : {};
    // Samples from before a failure was seen are older than that of the resumption; the order is what "went back" is judged by.
    const resumed = seen.resumed ?? before;
    const after = this.#after.filter((sample) => sample.atMs >= resumed.atMs);
    const vms = judge(before, resumed, after, { expected, oracle, ...steps });
    // Without a failure the second that counts is the one after the machine ran on.
    const runsOn = { startMs: this.#begunMs, endMs: this.#begunMs };
    this.#judged = outside.judge(vms, seen.outages.length === 0 ? [runsOn] : seen.outages);
    return this.#judged;
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
