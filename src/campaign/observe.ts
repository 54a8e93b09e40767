/**
 * From the moment the broken machine runs on to a certain verdict, and not longer: a trial ends as soon as everything is seen to
 * be well, and waits to its limits only when something is not.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guard } from '../guard/guard.js';
import type { Box, NewVm } from '../testbed/box.js';
import type { ChainOracle } from '../workload/chain.js';
import { allWell, judge, type Sample, type VmVerdict } from '../workload/verdict.js';
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
  readonly newVm?: NewVm;
}

const POLL_MS = 150;

export class Observer {
  readonly #parts: ObserverParts;
  readonly #after: Sample[] = [];
  #creation: Promise<NewVm> | undefined;
  #newVm: NewVm | undefined;
  #begunMs = 0;
  #createdFromMs = 0;
  #createdMs = 0;

  constructor(parts: ObserverParts) {
    this.#parts = parts;
  }

  /** Lets the machine run under the guard until the verdict is certain. @throws what the guard throws of our own failures */
  async watch(guard: Guard): Promise<Observation> {
    this.#begunMs = performance.now();
    const { seen, wanted } = this.#parts;
    if (wanted === 'nothing') return { vms: [] };
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
    const { seen, sample, limits } = this.#parts;
    if (seen.lost !== undefined) return true;
    if (seen.recovering) return false;
    this.#after.push(sample());
    const vms = this.#judge();
    // dom0 creates the new VM as soon as it is seen to work; the others are watched meanwhile.
    if (this.#wantsNewVm() && vms.some((vm) => vm.kind === 'dom0' && vm.alive)) this.#create();
    const waitsForNewVm = this.#creation !== undefined && this.#newVm === undefined;
    const sinceMs = performance.now() - (seen.resumed?.atMs ?? this.#begunMs);
    if (waitsForNewVm) return false;
    const isWell = allWell(vms) && !this.#wantsNewVm();
    if (seen.failures.length > 0) return isWell || sinceMs > limits.revivalMs;
    return (isWell && sinceMs >= limits.quietMs) || sinceMs > limits.detectionMs;
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
      .createVm(limits.newVmMs)
      .catch((error: unknown): NewVm => ({ kind: 'failed', name: 'new VM', reason: messageOf(error) }))
      .then((newVm) => {
        this.#createdMs = performance.now();
        this.#newVm = newVm;
        return newVm;
      });
  }

  async #conclude(): Promise<Observation> {
    const { seen, sample, limits } = this.#parts;
    if (seen.lost === undefined) {
      // The creation is work for the hypervisor, and a hypervisor that is broken in a quiet corner may fail only now.
      this.#after.push(sample());
    }
    const vms = this.#judge();
    if (this.#newVm !== undefined) return { vms, newVm: this.#newVm };
    if (this.#creation === undefined && limits.newVm === 'never') return { vms };
    if (seen.failures.length === 0 && !this.#wantsNewVm()) return { vms };
    return { vms, newVm: { kind: 'failed', name: 'new VM', reason: 'dom0 is not there to create it' } };
  }

  #judge(): VmVerdict[] {
    const { box, before, seen, oracle, limits } = this.#parts;
    const expected = [
      { name: 'dom0', kind: 'dom0' as const },
      ...box.spec.guests.map(({ name, kind }) => ({ name, kind })),
    ];
    const steps = seen.failures.length === 0 ? { steps: limits.quietSteps } : {};
    return judge(before, seen.resumed ?? before, this.#after, { expected, oracle, ...steps });
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
