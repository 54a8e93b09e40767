/**
 * Executes an exact number of instructions of Xen on one CPU, over as many stays in Xen as it takes (docs/design/injection.md).
 *
 * Stepping them one by one takes half a millisecond each. Instead the CPU's way is foretold, it runs alone to a place on that
 * way which it has not passed before, and its registers must then be the ones foretold: only then is the number right. What cannot
 * be foretold is stepped. Interrupts come when they come; they are caught at their entry, and their handlers are counted as well.
 */

import type { Stop } from '../machine/stop.js';
import { decode } from '../x86/decode.js';
import { type CodeCache, type Prediction, predict } from '../x86/interpret/predict.js';
import { type CpuRegisters, ENCODING_ORDER, privilegeLevel } from '../x86/registers.js';
import { onStack } from '../xen/stack.js';
import type { Control } from './control.js';
import { type Entries, entriesOf, preludeOf } from './entries.js';
import type { NotReached, Reached, Site } from './model.js';
import { siteOf } from './site.js';

export interface Count {
  readonly instructions: number;
  /** performance.now() */
  readonly deadline: number;
  /** Which instructions of Xen count, by their address; default all. */
  readonly counts?: (rip: bigint) => boolean;
  /** End when the CPU leaves Xen, instead of waiting for it to come again. */
  readonly stays?: 'one' | 'all';
  /** performance.now() from which the CPU is not waited for any more once it is out of Xen; default the deadline. */
  readonly waitUntil?: number;
}

/** The CPU left Xen before it had executed that many instructions. */
export interface Left {
  readonly kind: 'left';
  readonly done: number;
}

/** What counting took; for benchmarks and tests. */
export interface CountEffort {
  /** Runs of the CPU to a foretold place. */
  hops: number;
  /** Single steps. */
  steps: number;
  /** Times that the CPU was waited for while it was in a guest or halted. */
  waits: number;
  /** Times that the others were let run since the CPU waited for one of them. */
  spins: number;
  /** Hops after which the CPU was not as foretold, so that the number may be wrong. */
  surprises: number;
}

/** The point is before the instruction that would be the next to count. */
export async function countInXen(site: Site, count: Count, effort = noEffort()): Promise<Reached | NotReached> {
  const result = await countWhile(site, { ...count, stays: 'all' }, effort);
  return result.kind === 'left' ? { kind: 'not-reached', why: 'the CPU left Xen' } : result;
}

/** The same, but a CPU that is out of Xen after `waitUntil` is left, and it is told how far it came. */
export const countWhileBusy = (
  site: Site,
  count: Count & { readonly waitUntil: number },
): Promise<Reached | NotReached | Left> => countWhile(site, { ...count, stays: 'all' }, noEffort());

/** The same within one stay of the CPU in Xen. */
export const countInStay = (site: Site, count: Count): Promise<Reached | NotReached | Left> =>
  countWhile(site, { ...count, stays: 'one' }, noEffort());

async function countWhile(site: Site, count: Count, effort: CountEffort): Promise<Reached | NotReached | Left> {
  const counter = new Counter(site, count, effort);
  try {
    return await counter.run();
  } finally {
    await counter.catchNothing();
  }
}

export const noEffort = (): CountEffort => ({ hops: 0, steps: 0, waits: 0, spins: 0, surprises: 0 });

/** So far ahead is foretold at most, in instructions. */
const FORESIGHT = 4000;
/** A hop that takes longer is ended where the CPU is, in milliseconds of host time. */
const HOP_LIMIT_MS = 300;
/** A CPU in a guest or halted runs alone this long; then all others run too for `TOGETHER_MS`. */
const ALONE_MS = 15;
const TOGETHER_MS = 2;
/** The others run this long when the CPU spins for one of them. */
const SPIN_MS = 1;
/** Steps through code that is Xen's but not in its text: the trampolines and emulation stubs of a CPU. */
const STUB_STEPS = 64;
const HLT = 0xf4;

class Counter {
  readonly #site: Site;
  readonly #control: Control;
  readonly #cpu: number;
  readonly #count: Count;
  readonly #effort: CountEffort;
  readonly #entries: Entries;
  readonly #cache: CodeCache = new Map();
  /** Breakpoints on entries that are ours to remove. */
  #caught: readonly bigint[] = [];
  #registers: Readonly<CpuRegisters>;
  #halted: boolean = false;
  #done = 0;
  /** Why counting cannot go on. */
  #broken: string | undefined;

  constructor(site: Site, count: Count, effort: CountEffort) {
    this.#site = site;
    this.#control = site.control;
    this.#cpu = site.state.cpu;
    this.#count = count;
    this.#effort = effort;
    this.#entries = entriesOf(site.xen, site.target.facts);
    this.#registers = site.state.registers;
  }

  async run(): Promise<Reached | NotReached | Left> {
    const { deadline } = this.#count;
    const { target } = this.#site;
    while (!this.#isThere()) {
      this.#control.signal.throwIfAborted();
      if (this.#broken !== undefined) return this.#notReached(this.#broken);
      if (performance.now() > deadline) return this.#notReached('its time was over');
      if (this.#halted || !this.#isInXen()) {
        if (await this.#leftStub()) continue;
        if (this.#count.stays === 'one' || performance.now() > (this.#count.waitUntil ?? deadline))
          return { kind: 'left', done: this.#done };
        await this.#waitForXen();
      } else if (this.#isAtHalt()) this.#halt();
      else await this.#advance();
    }
    await this.catchNothing();
    const site = await siteOf(target, this.#control, this.#cpu);
    return { kind: 'reached', site, steps: this.#done, exact: this.#effort.surprises === 0 };
  }

  /** Removes the breakpoints on entries, so that other CPUs can run. */
  async catchNothing(): Promise<void> {
    const caught = this.#caught;
    this.#caught = [];
    if (caught.length > 0) await this.#site.target.machine.clearBreakpoints(caught);
  }

  async #catchEntries(): Promise<void> {
    if (this.#caught.length > 0) return;
    const { machine } = this.#site.target;
    this.#caught = this.#entries.all.filter((address) => !machine.breakpoints.has(address));
    await machine.setBreakpoints(this.#caught);
  }

  #notReached(why: string): NotReached {
    const { instructions } = this.#count;
    return {
      kind: 'not-reached',
      why: `CPU ${this.#cpu} executed ${this.#done} of ${instructions} instructions: ${why}`,
    };
  }

  #isThere(): boolean {
    if (this.#done < this.#count.instructions || this.#halted || !this.#isInXen()) return false;
    return this.#counts(this.#registers.rip);
  }

  #counts = (rip: bigint): boolean => this.#count.counts?.(rip) ?? true;

  #isText = (rip: bigint): boolean => this.#site.xen.profile.isText(rip);

  #isInXen(): boolean {
    return privilegeLevel(this.#registers) === 0 && this.#isText(this.#registers.rip);
  }

  #isAtHalt(): boolean {
    return this.#site.xen.memory.u8(this.#registers.rip) === HLT;
  }

  /** Executes at least one instruction of Xen, and none beyond the point. */
  async #advance(): Promise<void> {
    const { instructions, counts } = this.#count;
    const limit = counts === undefined ? Math.min(FORESIGHT, instructions - this.#done) : FORESIGHT;
    const { ram } = this.#site.target.machine;
    const options = { limit, within: this.#isText, cache: this.#cache };
    const prediction = predict(ram, this.#registers, options);
    const last = prediction.path.length - 1;
    const point = this.#pointOn(prediction.path);
    const to = lastFirstVisit(prediction.path, point ?? last);
    if (to === 0) await this.#step();
    else await this.#hop(prediction, to);
    if (prediction.end === 'spinning' && point === undefined) await this.#letOthersRun();
  }

  /** Which place of a path is the point, where it has it. */
  #pointOn(path: readonly bigint[]): number | undefined {
    let done = this.#done;
    for (const [n, rip] of path.entries()) {
      if (!this.#counts(rip)) continue;
      if (done === this.#count.instructions) return n;
      done++;
    }
    return undefined;
  }

  #executed(addresses: readonly bigint[]): void {
    for (const rip of addresses) if (this.#counts(rip)) this.#done++;
  }

  async #hop(prediction: Prediction, to: number): Promise<void> {
    this.#effort.hops++;
    await this.#catchEntries();
    const { machine } = this.#site.target;
    const until = prediction.path[to]!;
    const stop = await machine.runOne(this.#cpu, { until, timeoutMs: HOP_LIMIT_MS });
    this.#registers = await machine.registers(this.#cpu);
    this.#look(stop, until);
    const here = indexOnPath(prediction, to, this.#registers);
    if (here !== undefined) {
      this.#executed(prediction.path.slice(0, here));
      return;
    }
    const before = this.#interrupted();
    const left = before === undefined ? undefined : indexOnPath(prediction, to, before.registers);
    // Interrupted on the way, or not where it should be: then the number is a guess, which is told.
    if (left === undefined) this.#effort.surprises++;
    this.#executed(prediction.path.slice(0, left ?? to));
    if (before !== undefined) this.#executed(before.prelude);
  }

  /** The registers that an interrupt or exception found, when the CPU stands at such an entry, and what it executed since. */
  #interrupted(): { registers: CpuRegisters; prelude: readonly bigint[] } | undefined {
    const { rip: entry, rsp } = this.#registers;
    if (!this.#entries.withFrame.has(entry) || !onStack(this.#site.state.stack, rsp)) return undefined;
    const { xen } = this.#site;
    const word = (n: number): bigint => xen.memory.u64(rsp + BigInt(8 * n));
    const vector = Number((word(0) >> 32n) & 0xffn);
    const prelude = preludeOf(xen, { cpu: this.#cpu, vector, entry });
    return { registers: { ...this.#registers, rip: word(1), rsp: word(4) }, prelude };
  }

  /** One instruction, by the debugger's own step. */
  async #step(): Promise<void> {
    this.#effort.steps++;
    const { machine } = this.#site.target;
    const { rip } = this.#registers;
    const repeated = repeatedInstruction(this.#site.xen.memory.bytes(rip, 15), rip);
    if (repeated === undefined) await machine.stepOne(this.#cpu);
    else {
      // The debugger would step each repetition.
      await this.#catchEntries();
      await machine.runOne(this.#cpu, { until: repeated, timeoutMs: HOP_LIMIT_MS });
    }
    this.#registers = await machine.registers(this.#cpu);
    if (this.#registers.rip === rip && repeated !== undefined) return; // Interrupted between two repetitions.
    this.#executed([rip]);
  }

  /** The CPU is about to halt: it does, and whatever wakes it is waited for. */
  #halt(): void {
    this.#executed([this.#registers.rip]);
    this.#halted = true;
  }

  /**
   * The CPU is in a guest, or halted. It runs alone until it comes into Xen. When that takes long it may wait for another one,
   * so then all run for a moment; what the CPU executes in Xen in that time is not counted.
   */
  async #waitForXen(): Promise<void> {
    this.#effort.waits++;
    const { machine } = this.#site.target;
    await this.#catchEntries();
    const stop = await machine.runOne(this.#cpu, { timeoutMs: ALONE_MS });
    this.#registers = await machine.registers(this.#cpu);
    this.#look(stop);
    if (stop.kind === 'breakpoint') {
      this.#halted = false;
      this.#executed(this.#interrupted()?.prelude ?? []);
      return;
    }
    await this.catchNothing();
    await this.#control.runFor(TOGETHER_MS);
    this.#registers = await machine.registers(this.#cpu);
    this.#halted = this.#isInXen() && (await machine.hiddenRegisters(this.#cpu)).halted;
  }

  /** Leaves a trampoline or an emulation stub: code of Xen's that lies outside its text, and does not count. */
  async #leftStub(): Promise<boolean> {
    const { machine } = this.#site.target;
    for (let n = 0; n < STUB_STEPS && !this.#halted; n++) {
      if (privilegeLevel(this.#registers) !== 0 || !onStack(this.#site.state.stack, this.#registers.rsp)) return false;
      await machine.stepOne(this.#cpu);
      this.#registers = await machine.registers(this.#cpu);
      if (this.#isInXen()) return true;
    }
    return false;
  }

  /** The CPU spins for one that stands still. It stays where it is while the others run. */
  async #letOthersRun(): Promise<void> {
    this.#effort.spins++;
    await this.catchNothing();
    const { machine } = this.#site.target;
    const others = Array.from({ length: machine.cpuCount }, (_, cpu) => cpu).filter((cpu) => cpu !== this.#cpu);
    this.#look(await machine.runThese(others, SPIN_MS));
  }

  /** A stop that is neither ours nor the end of the time: the box failed by itself, or stopped for good. */
  #look(stop: Stop, until?: bigint): void {
    if (stop.kind === 'paused') return;
    const ours = stop.kind === 'breakpoint' && stop.address !== undefined;
    if (ours && (stop.address === until || this.#caught.includes(stop.address!))) return;
    const at = ours ? ` at ${this.#site.xen.profile.describe(stop.address!)}` : '';
    this.#broken = `the machine stopped by itself (${stop.kind}${at})`;
  }
}

/** The farthest place of a path, up to `limit`, that the path has not passed before: where a breakpoint is hit in time. */
export function lastFirstVisit(path: readonly bigint[], limit: number): number {
  const passed = new Set<bigint>();
  let last = 0;
  for (let n = 0; n <= limit; n++) {
    const rip = path[n]!;
    if (!passed.has(rip)) last = n;
    passed.add(rip);
  }
  return last;
}

/**
 * The place of the path, up to `to`, at which all registers are as foretold. A CPU that goes round waiting has the same registers each
 * time; it cannot have come beyond `to`, which it had not passed before.
 */
function indexOnPath({ path, registers }: Prediction, to: number, now: Readonly<CpuRegisters>): number | undefined {
  for (let n = to; n >= 0; n--) {
    if (path[n] !== now.rip) continue;
    if (ENCODING_ORDER.every((name, encoding) => registers[n]![encoding] === now[name])) return n;
  }
  return undefined;
}

/** The address behind a string instruction with a repeat prefix; `undefined` for any other instruction. */
function repeatedInstruction(code: Uint8Array, rip: bigint): bigint | undefined {
  for (const { raw, next } of decode(code, rip)) {
    return raw.isStringInstruction && (raw.hasRepPrefix || raw.hasRepnePrefix) ? next : undefined;
  }
  return undefined;
}
