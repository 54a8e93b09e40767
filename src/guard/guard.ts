/**
 * Watches a box and recovers it every time it fails: breakpoints on Xen's failure paths, QEMU's own stop events, and the
 * hang watchdog. One guard owns the box's run control.
 */
import { join } from 'node:path';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import { TextWatch } from '../detect/damaged-text.js';
import type { Failure } from '../detect/failure.js';
import { classifyStop, failurePoints } from '../detect/failure-points.js';
import { miscounted } from '../detect/nesting.js';
import { SecondChances } from '../detect/second-chances.js';
import type { Stop } from '../machine/stop.js';
import { RecordingView, saveCapsule } from '../recover/capsule.js';
import type { Mechanism } from '../recover/mechanism.js';
import { microreset } from '../recover/microreset/index.js';
import type { Recovery } from '../recover/outcome.js';
import type { View } from '../x86/view.js';
import { type CpuState, lostItsPageTable, lostItsStack, readSituation } from '../xen/cpus.js';
import { attempt, ifReadable } from '../xen/damage.js';
import { tableDefects } from '../xen/descriptors.js';
import { listDomains } from '../xen/domains.js';
import { damagedAt } from '../xen/image.js';
import type { Xen } from '../xen/xen.js';
import { Urgency } from './priority.js';
import { recover } from './recover.js';
import { isWarm } from './rehearsal.js';
import { type Suspect, Suspicions } from './suspicions.js';
import type { Target } from './target.js';
import { warmUp } from './warm-up.js';

export type GuardEvent =
  | { readonly kind: 'watching'; readonly xen: string; readonly buildId: string; readonly cpus: number }
  | { readonly kind: 'failure'; readonly failure: Failure }
  | { readonly kind: 'recovered'; readonly recovery: Recovery }
  /** The plan did not pass its check, or the machine cannot go on: it stands frozen for whoever looks into it. */
  | { readonly kind: 'not-recovered'; readonly failure: Failure; readonly recovery?: Recovery; readonly why: string }
  /** A CPU looked hung and was not. */
  | { readonly kind: 'false-alarm'; readonly cpu: number; readonly stalledMs: number }
  | { readonly kind: 'ended'; readonly why: string };

export interface GuardOptions {
  readonly mechanism?: Mechanism;
  readonly without?: ReadonlySet<string>;
  readonly commitUnchecked?: boolean;
  /** Folder in which a capsule of each failure is kept. */
  readonly capsuleDir?: string;
  /** Text kept in capsules. */
  readonly capsuleNote?: () => string;
  readonly onEvent?: (event: GuardEvent) => void;
  /**
   * Called with each failure on the frozen machine, before the recovery is planned. An injector takes back here what it changed
   * in code; registers stay as they are. What it throws ends the guard.
   */
  readonly beforeRecovery?: (failure: Failure) => Promise<void>;
  /** At most so many recoveries are rehearsed after attaching. Default: until the process is warm, which it stays. */
  readonly rehearsals?: number;
  /** Whether hangs are looked for; panics always are. */
  readonly hangs?: 'watch' | 'ignore';
  /**
   * Whether text is compared with what it was while the box runs. Default "watch". Campaigns that repeat published experiments
   * ignore it, since there a failure is what the hypervisor does, not what was done to it.
   */
  readonly text?: 'watch' | 'ignore';
}

/** A failure with the view it was seen in, from which the recovery is planned. No view: the machine cannot go on. */
interface Sighting {
  readonly failure: Failure;
  readonly view?: View;
  /** Text was compared after the machine stopped, and nothing differed. */
  readonly textIsSound?: boolean;
}

/** How often the watchdog looks, in milliseconds of host time. */
const LOOK_EVERY_MS = 25;
/** How often what costs next to nothing is looked at, and hurts guests as long as it goes on. */
const GLANCE_EVERY_MS = 5;
/** A suspected CPU is looked at several times, this far apart, before it is declared hung. */
const NEXT_LOOK_MS = 30;

export class Guard {
  readonly #target: Target;
  readonly #options: GuardOptions;
  readonly #suspicions: Suspicions;
  readonly #text: TextWatch | undefined;
  readonly #chances = new SecondChances();
  /** When the last failures were seen, oldest first. */
  readonly #recent: number[] = [];
  #rehearsals: Promise<void> = Promise.resolve();
  #recovering: boolean = false;
  #failures = 0;
  #lookedAtMs = 0;
  #stopped: boolean = false;
  /** What the comparison said that followed the last stop at a breakpoint, of those since the box is watched. */
  #textIsSound: boolean = false;
  /** dom0 had Xen halt the machine: no CPU gets anything done any more, and none hangs. */
  #halted: boolean = false;

  private constructor(target: Target, options: GuardOptions) {
    this.#target = target;
    this.#options = options;
    this.#suspicions = new Suspicions(target);
    const { image } = target.facts;
    this.#text = options.text === 'ignore' || image === undefined ? undefined : new TextWatch(target.xen, image);
  }

  /** Sets the breakpoints on a frozen box and warms the recovery up. The box stands still afterwards. */
  static async attach(target: Target, options: GuardOptions = {}): Promise<Guard> {
    const guard = new Guard(target, options);
    await target.machine.setBreakpoints(failurePoints(target.xen));
    guard.#rehearsals = guard.#rehearse(await warmUp(target, options.mechanism ?? microreset));
    const { profile } = target.xen;
    options.onEvent?.({
      kind: 'watching',
      xen: profile.version,
      buildId: profile.buildId,
      cpus: target.machine.cpuCount,
    });
    return guard;
  }

  /** Settles when the recovery path is warm: a recovery before that works as well and takes several times as long. */
  get warm(): Promise<void> {
    return this.#rehearsals;
  }

  /** Failures seen so far. */
  get failures(): number {
    return this.#failures;
  }

  /**
   * Lets the box run until the next failure and recovers it. `undefined` when `timeoutMs` of host time passed without
   * one, or the guard was stopped; the box runs on then.
   * @throws NL_QEMU_EXITED, NL_STUB_LOST, NL_QMP_LOST
   */
  async nextRecovery(timeoutMs = Number.POSITIVE_INFINITY): Promise<Recovery | undefined> {
    const deadline = performance.now() + timeoutMs;
    const { machine } = this.#target;
    // A stop that came while nobody watched was not followed by a comparison.
    this.#textIsSound = false;
    machine.captureAtStops(() => this.#compareText());
    try {
      const missed = await this.#goOn();
      if (missed !== undefined) return await this.#onFailure(missed);
      while (!this.#stopped) {
        const left = deadline - performance.now();
        if (left <= 0) return undefined;
        const seen = await this.#look(Math.min(GLANCE_EVERY_MS, left));
        if (seen !== undefined) return await this.#onFailure(seen);
      }
      return undefined;
    } finally {
      machine.captureOnRequest();
    }
  }

  /** Lets the machine run. It may have stopped by itself since the last recovery: then that is what is seen next. */
  async #goOn(): Promise<Sighting | undefined> {
    const { machine } = this.#target;
    if (machine.state === 'frozen') {
      if (machine.lastStop.kind !== 'paused') return this.#onStop(machine.lastStop);
      await machine.resume();
    }
    this.#suspicions.reset();
    return undefined;
  }

  async #onFailure(seen: Sighting): Promise<Recovery | undefined> {
    const { failure } = seen;
    this.#failures++;
    if (this.#isStorm(failure)) return undefined;
    this.#recovering = true;
    using _urgent = new Urgency();
    try {
      return await this.#recover(seen);
    } finally {
      this.#recovering = false;
    }
  }

  /** Watches until it is stopped or the box cannot be recovered. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      const recovery = await this.nextRecovery();
      if (recovery?.result === 'refused') return;
    }
  }

  /**
   * Whether failures follow each other so closely that the box gets nothing done in between: recovery does not help any
   * more. The machine is left frozen then.
   */
  #isStorm(failure: Failure): boolean {
    this.#recent.push(failure.detectedAtMs);
    if (this.#recent.length < STORM.failures) return false;
    const first = this.#recent.shift()!;
    if (failure.detectedAtMs - first > STORM.withinMs) return false;
    const why = `${STORM.failures} failures within ${STORM.withinMs} ms: recovery does not help`;
    this.#options.onEvent?.({ kind: 'failure', failure });
    this.#options.onEvent?.({ kind: 'not-recovered', failure, why });
    this.#stopped = true;
    return true;
  }

  /** Ends `run` and `nextRecovery` at their next look. */
  stop(): void {
    this.#stopped = true;
  }

  /** One look: a stop of the machine within `ms`, damage, or a CPU that hangs. */
  async #look(ms: number): Promise<Sighting | undefined> {
    const stop = await this.#stopWithin(ms);
    if (stop !== undefined) {
      this.#recovering = true;
      using _urgent = new Urgency();
      const seen = await this.#onStop(stop);
      this.#recovering = seen !== undefined;
      return seen;
    }
    if (this.#halted) return undefined;
    if (miscounted(this.#target.xen) !== undefined) return this.#onMiscount();
    if (this.#text?.look() !== undefined) return this.#onDamagedText();
    if (this.#options.hangs === 'ignore' || performance.now() - this.#lookedAtMs < LOOK_EVERY_MS) return undefined;
    this.#lookedAtMs = performance.now();
    const suspect = this.#suspicions.look();
    return suspect === undefined ? undefined : this.#examine(suspect);
  }

  async #stopWithin(ms: number): Promise<Stop | undefined> {
    try {
      return await this.#target.machine.waitForStop(ms);
    } catch (error) {
      if (isNinelivesError(error, 'NL_TIMEOUT')) return undefined;
      throw error;
    }
  }

  async #onStop(stop: Stop): Promise<Sighting | undefined> {
    const { machine } = this.#target;
    if (stop.kind === 'breakpoint') {
      const view = await machine.capture();
      const failure = classifyStop(this.#target.at(view), stop.cpu, stop.atMs);
      if (failure !== undefined && !this.#chances.isOwnEnd(failure))
        return { failure, view, textIsSound: this.#textIsSound };
      if (view.registers(stop.cpu).rip === this.#target.xen.symbol('machine_halt')) this.#halted = true;
    } else if (stop.kind === 'shutdown' || stop.kind === 'reset' || stop.kind === 'internal-error') {
      const revived = stop.kind === 'reset' ? await this.#onTripleFault(stop) : undefined;
      if (revived !== undefined) return revived;
      const why = `QEMU stopped the machine: ${stop.kind}`;
      return { failure: { kind: 'machine-stop', summary: why, detectedAtMs: stop.atMs } };
    }
    await machine.resume();
    this.#suspicions.reset();
    return undefined;
  }

  /** Of the machine that stands now. */
  #compareText(): void {
    const { facts, xen } = this.#target;
    const { image } = facts;
    const looked = attempt(() => (image === undefined ? 0n : damagedAt(xen, image)));
    this.#textIsSound = 'value' in looked && looked.value === undefined;
  }

  #onMiscount(): Promise<Sighting | undefined> {
    return this.#confirm((xen) => {
      const wrong = miscounted(xen);
      if (wrong === undefined) return undefined;
      const { cpu, count } = wrong;
      return { kind: 'bug', cpu, summary: `CPU ${cpu} has counted ${count} interrupts that it is in` };
    });
  }

  #onDamagedText(): Promise<Sighting | undefined> {
    return this.#confirm((xen) => {
      const address = damagedAt(xen, this.#target.facts.image!);
      if (address === undefined) return undefined;
      const at = xen.profile.describe(address);
      return { kind: 'damaged-text', at, summary: `Xen's code or constants are not what they were, at ${at}` };
    });
  }

  /** Freezes the machine and looks whether what was seen of the running one is so. */
  async #confirm(look: (xen: Xen) => Omit<Failure, 'detectedAtMs'> | undefined): Promise<Sighting | undefined> {
    const { machine } = this.#target;
    const stop = await machine.freeze();
    if (stop.kind !== 'paused') return this.#onStop(stop);
    const view = await machine.capture();
    const failure = look(this.#target.at(view));
    if (failure !== undefined) return { failure: { ...failure, detectedAtMs: stop.atMs }, view };
    this.#suspicions.reset();
    await machine.resume();
    return undefined;
  }

  /**
   * A CPU that lost its stack and had no other one to take the fault on, or its page table, or whose tables for that are damaged. A
   * reset that was asked for has no such CPU.
   */
  async #onTripleFault(stop: Stop): Promise<Sighting | undefined> {
    const { machine } = this.#target;
    const view = await machine.capture();
    const xen = this.#target.at(view);
    const lost = ifReadable(() => {
      const { cpus } = readSituation(xen, this.#target.facts, listDomains(xen));
      const damaged = new Set(tableDefects(xen, cpus).map(({ cpu }) => cpu));
      const isLost = (state: CpuState): boolean => lostItsStack(xen, state) || lostItsPageTable(xen, state);
      return cpus.find(isLost) ?? cpus.find(({ cpu }) => damaged.has(cpu));
    });
    if (lost === undefined) return undefined;
    // Where QEMU refuses, the machine is what it was: one that cannot go on.
    if (!(await machine.revive().catch(() => false))) return undefined;
    const at = xen.profile.describe(lost.registers.rip);
    const summary = `triple fault ${lost.where === 'guest' ? `in ${lost.current.name}` : 'in Xen'} at ${at}`;
    return { failure: { kind: 'machine-stop', cpu: lost.cpu, at, summary, detectedAtMs: stop.atMs }, view };
  }

  /** Looks several times at a suspected CPU. */
  async #examine({ cpu, stalledMs, looks, summary, isSo }: Suspect): Promise<Sighting | undefined> {
    const { machine } = this.#target;
    const begun = performance.now();
    for (let look = 1; ; look++) {
      const stop = await machine.freeze();
      const view = await machine.capture();
      const xen = this.#target.at(view);
      if (stop.kind !== 'paused') return this.#onStop(stop);
      const total = stalledMs + performance.now() - begun;
      if (!isSo(xen)) {
        this.#options.onEvent?.({ kind: 'false-alarm', cpu, stalledMs: total });
        this.#suspicions.reset();
        await machine.resume();
        return undefined;
      }
      if (look === looks) {
        const at = xen.profile.describe(view.registers(cpu).rip);
        const told = summary(total, at);
        const failure: Failure = { kind: 'hang', cpu, at, summary: told, detectedAtMs: stop.atMs, stalledMs: total };
        return { failure, view };
      }
      await machine.resume();
      const stopped = await this.#stopWithin(NEXT_LOOK_MS);
      if (stopped !== undefined) return this.#onStop(stopped);
    }
  }

  async #recover({ failure, view, textIsSound = false }: Sighting): Promise<Recovery | undefined> {
    const { mechanism = microreset, without, commitUnchecked, onEvent } = this.#options;
    if (view === undefined) {
      onEvent?.({ kind: 'failure', failure });
      onEvent?.({ kind: 'not-recovered', failure, why: failure.summary });
      this.#stopped = true;
      throw new NinelivesError('NL_QEMU_EXITED', `the machine cannot go on: ${failure.summary}`, {
        fix: 'Start the box again.',
      });
    }
    // What it does is in memory, which the view shows as it is.
    await this.#options.beforeRecovery?.(failure);
    let recording: RecordingView | undefined;
    const recovering = recover(this.#target, view, failure, {
      mechanism,
      textIsSound,
      ...(without === undefined ? {} : { without }),
      ...(commitUnchecked === undefined ? {} : { commitUnchecked }),
      ...(this.#options.capsuleDir === undefined
        ? {}
        : {
            watch: (base) => {
              recording = new RecordingView(base);
              return recording;
            },
            planned: () => recording?.seal(),
          }),
    });
    // Whoever listens is told when it is over: what they do about it would be part of the outage.
    const recovery = await recovering.finally(() => onEvent?.({ kind: 'failure', failure }));
    this.#suspicions.reset();
    const kept =
      recording === undefined ? recovery : { ...recovery, capsule: this.#keep(recording, failure, mechanism) };
    if (kept.result === 'resumed') onEvent?.({ kind: 'recovered', recovery: kept });
    else {
      const problems = kept.plan.problems.map((problem) => problem.message).join('; ');
      const why = `not recoverable by ${mechanism.name}: ${problems}`;
      onEvent?.({ kind: 'not-recovered', failure, recovery: kept, why });
    }
    return kept;
  }

  #keep(recording: RecordingView, failure: Failure, mechanism: Mechanism): string {
    const path = join(this.#options.capsuleDir!, `failure-${String(this.#failures).padStart(4, '0')}.capsule`);
    saveCapsule(path, {
      recording,
      xen: this.#target.xen,
      failure,
      mechanism,
      ...(this.#options.without === undefined ? {} : { without: this.#options.without }),
      note: this.#options.capsuleNote?.() ?? '',
    });
    return path;
  }

  /** One rehearsal after the other, a few milliseconds at a time, while the box runs and no recovery is under way. */
  async #rehearse(once: () => void): Promise<void> {
    const most = this.#options.rehearsals ?? Number.POSITIVE_INFINITY;
    for (let n = 0; n < most && !isWarm() && !this.#stopped; n++) {
      await new Promise<void>((resolve) => setTimeout(resolve, WARM_UP_PAUSE_MS));
      if (!this.#recovering) once();
    }
  }
}

const WARM_UP_PAUSE_MS = 2;

/**
 * So many failures in so short a time that the guests cannot have run much in between. A hang takes a quarter of a second to be
 * seen, so more than that many would never come together; ten failures in a row, or one right after another, are none.
 */
const STORM = { failures: 20, withinMs: 5000 } as const;
