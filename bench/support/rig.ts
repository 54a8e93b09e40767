/** A box that is broken and recovered again and again, with everything measured. */
import { type Progress, silent } from '../../dist/common/progress.js';
import type { Random } from '../../dist/common/random.js';
import { Guard } from '../../dist/guard/guard.js';
import { findTarget, type Target } from '../../dist/guard/target.js';
import { FAILSTOP, type FaultSpec, injectOnce, triggerSchema } from '../../dist/inject/index.js';
import type { Mechanism } from '../../dist/recover/mechanism.js';
import type { Recovery } from '../../dist/recover/outcome.js';
import { type Box, openBox } from '../../dist/testbed/box.js';
import { DEFAULT_BOX } from '../../dist/testbed/spec.js';
import { type Passage, StopClock } from './stop-clock.js';

/** Far enough apart that the guests get work done in between. */
const TRIGGER = triggerSchema.parse({ type: 'timer', delayMs: [250, 500], instructions: [0, 60] });
const DETECTION_LIMIT_MS = 10_000;

export interface Measured {
  readonly recovery: Recovery;
  readonly passage: Passage;
}

export interface RigOptions {
  readonly progress?: Progress;
  /** Folder in which a capsule of each failure is kept. */
  readonly capsuleDir?: string;
}

export const boxSpec = (cpus: number, memoryMiB: number) => ({ ...DEFAULT_BOX, name: 'latency', cpus, memoryMiB });

const notResumed = ({ failure, plan, result }: Recovery): string =>
  `${failure.summary}: ${result}; ${plan.problems.map(({ step, message }) => `${step}: ${message}`).join('; ')}`;

export class Rig implements AsyncDisposable {
  readonly box: Box;
  #target: Target;
  #clock: StopClock;
  readonly #guards = new Map<Mechanism, Guard>();
  readonly #options: RigOptions;

  private constructor(box: Box, target: Target, options: RigOptions) {
    this.box = box;
    this.#target = target;
    this.#options = options;
    this.#clock = new StopClock(box.machine);
  }

  static async open(cpus: number, memoryMiB: number, options: RigOptions = {}): Promise<Rig> {
    const box = await openBox(boxSpec(cpus, memoryMiB), options.progress ?? silent);
    await box.machine.freeze();
    return new Rig(box, await findTarget(box.machine), options);
  }

  /** A guard that recovers by this mechanism; several may take turns. */
  async guard(mechanism: Mechanism, hangs: 'watch' | 'ignore' = 'ignore'): Promise<Guard> {
    let guard = this.#guards.get(mechanism);
    if (guard === undefined) {
      await this.box.machine.freeze();
      const { capsuleDir } = this.#options;
      guard = await Guard.attach(this.#target, {
        mechanism,
        hangs,
        ...(capsuleDir === undefined ? {} : { capsuleDir }),
      });
      this.#guards.set(mechanism, guard);
    }
    return guard;
  }

  /** Breaks the hypervisor and has it recovered; `undefined` when that did not go well, after which `renew` is due. */
  async fail(mechanism: Mechanism, random: Random, fault: FaultSpec = FAILSTOP): Promise<Measured | undefined> {
    const guard = await this.guard(mechanism, fault.type === 'hang' ? 'watch' : 'ignore');
    await injectOnce(this.#target, random, { fault, trigger: TRIGGER, signal: AbortSignal.timeout(60_000) });
    await this.#clock.reset();
    const recovery = await guard.nextRecovery(DETECTION_LIMIT_MS);
    if (recovery?.result !== 'resumed') {
      console.error(recovery === undefined ? 'no failure was seen' : notResumed(recovery));
      return undefined;
    }
    const passage = await this.#clock.passage(recovery.failure.kind === 'hang' ? 1 : 0);
    if (passage === undefined)
      console.error(`after "${recovery.failure.summary}" the machine's stops could not be told apart`);
    return passage && { recovery, passage };
  }

  /** The box as it was at first. */
  async renew(): Promise<void> {
    await this.box.restore();
    await this.box.machine.freeze();
    this.#target = await findTarget(this.box.machine);
    this.#clock[Symbol.dispose]();
    this.#clock = new StopClock(this.box.machine);
    this.#guards.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#clock[Symbol.dispose]();
    await this.box[Symbol.asyncDispose]();
  }
}
