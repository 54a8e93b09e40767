/**
 * Who runs and who stands: the one owner of run control of a machine. All starts and stops go through the debugger stub,
 * since QEMU's two controls (stub and QMP) share one state and would overtake each other.
 */
import { NinelivesError } from '../common/errors.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { Resumption, StopReply, StubSession } from './rsp/session.js';
import { canResume, type Stop, toStop } from './stop.js';

export type MachineState = 'running' | 'frozen' | 'ended';

export interface RunOneOptions {
  /** Stop when the CPU is about to execute here (a breakpoint for the time of this run). */
  readonly until?: bigint;
  /** Host time after which the CPU is stopped wherever it is. */
  readonly timeoutMs: number;
}

interface Waiter {
  readonly resolve: (stop: Stop) => void;
  readonly reject: (error: Error) => void;
}

const STOP_LIMIT_MS = 5000;
/** The stub's stop reply and QMP's SHUTDOWN event race; this long we wait for the event, which has the reason. */
const REASON_GRACE_MS = 20;

export class RunControl {
  readonly #session: StubSession;
  readonly #breakpoints = new Set<bigint>();
  /** CPUs that stand on a breakpoint they have reported: they must step off it before they can go on. */
  readonly #standing = new Map<number, bigint>();
  #waiters: Waiter[] = [];
  #state: MachineState = 'frozen';
  #lastStop: Stop;
  #lost: NinelivesError | undefined;
  /** A run of one CPU while the machine as a whole counts as frozen; its stop is nobody else's business. */
  #privateRun: boolean = false;

  /** Called with each stop of the whole machine, but not with those of `runOne` and `stepOne`. */
  onStop: (stop: Stop) => void = () => {};
  /** Called whenever the machine, or one CPU of it, begins to run or stands again. */
  onState: (state: 'running' | 'frozen') => void = () => {};
  /** Where a CPU that hit a breakpoint stands. Default: the stub is asked for its program counter and nothing else. */
  addressOf: (cpu: number) => Promise<bigint>;
  /** Reason of the last SHUTDOWN event that QMP told of. */
  shutdownReason: string | undefined;

  constructor(session: StubSession) {
    this.#session = session;
    this.#lastStop = { kind: 'paused', atMs: performance.now() };
    this.addressOf = (cpu) => session.programCounter(cpu);
    session.onStop = (reply, atMs) => this.#stopped(reply, atMs);
  }

  get state(): MachineState {
    return this.#state;
  }

  /** The stop that the machine stands in, or the last one it stood in. */
  get lastStop(): Stop {
    return this.#lastStop;
  }

  get breakpoints(): ReadonlySet<bigint> {
    return this.#breakpoints;
  }

  /** Stops all CPUs. Where the machine stands already, the stop it stands in. @throws NL_TIMEOUT, NL_STUB_LOST */
  async freeze(): Promise<Stop> {
    this.#requireAlive();
    if (this.#state === 'frozen') return this.#lastStop;
    this.#session.interrupt();
    return this.waitForStop(STOP_LIMIT_MS);
  }

  /** Whether a CPU stands on a breakpoint, so that `resume` has to step it before it lets all run. */
  get stepsFirst(): boolean {
    return this.#standing.size > 0;
  }

  /** Lets all CPUs run. @throws NL_STUB_ERROR when the machine was shut down and can only be reset. */
  async resume(): Promise<void> {
    this.#requireAlive();
    if (this.#state === 'running') return;
    if (!canResume(this.#lastStop))
      throw new NinelivesError('NL_STUB_ERROR', `the machine stopped by "${this.#lastStop.kind}" and cannot go on`, {
        fix: 'restore a snapshot or start it again',
      });
    for (const cpu of [...this.#standing.keys()]) await this.#stepOffBreakpoint(cpu);
    this.#standing.clear();
    this.#state = 'running';
    this.onState('running');
    this.#session.resume({ kind: 'all' });
  }

  /** The next stop; where the machine stands already, that one. @throws NL_TIMEOUT after `timeoutMs`, NL_STUB_LOST */
  waitForStop(timeoutMs?: number): Promise<Stop> {
    if (this.#lost) return Promise.reject(this.#lost);
    if (this.#state === 'frozen') return Promise.resolve(this.#lastStop);
    return this.#nextStop(timeoutMs);
  }

  async setBreakpoints(addresses: readonly bigint[]): Promise<void> {
    this.#requireFrozen('setting breakpoints');
    const added = addresses.filter((address) => !this.#breakpoints.has(address));
    for (const address of added) this.#breakpoints.add(address);
    await this.#session.insertBreakpoints(added);
  }

  /** Removes these breakpoints, or all. */
  async clearBreakpoints(addresses: readonly bigint[] = [...this.#breakpoints]): Promise<void> {
    this.#requireFrozen('removing breakpoints');
    const removed = addresses.filter((address) => this.#breakpoints.delete(address));
    await this.#session.removeBreakpoints(removed);
  }

  /**
   * Runs one CPU while all others stand still. A stop of kind `paused` means that the time was over: a halted CPU does not
   * execute anything until an interrupt reaches it.
   */
  async runOne(cpu: number, options: RunOneOptions): Promise<Stop> {
    this.#requireFrozen('running one CPU');
    await this.#stepOffBreakpoint(cpu);
    const { until } = options;
    if (until === undefined || this.#breakpoints.has(until))
      return this.#runPrivately({ kind: 'only', cpu }, options.timeoutMs);
    const inserted = this.#session.insertBreakpoints([until]);
    const run = this.#runPrivately({ kind: 'only', cpu }, options.timeoutMs);
    const [set, stop] = await Promise.allSettled([inserted, run]);
    if (this.#lost) throw this.#lost;
    await this.#session.removeBreakpoints([until]);
    if (set.status === 'rejected') throw set.reason;
    if (stop.status === 'rejected') throw stop.reason;
    if (this.#standing.get(cpu) === until) this.#standing.delete(cpu);
    return stop.value;
  }

  /** Runs some CPUs for a time while all others stand still, as `runOne` does one. */
  async runThese(cpus: readonly number[], timeoutMs: number): Promise<Stop> {
    this.#requireFrozen('running some CPUs');
    for (const cpu of cpus) await this.#stepOffBreakpoint(cpu);
    return this.#runPrivately({ kind: 'these', cpus }, timeoutMs);
  }

  /** Executes one instruction on one CPU, with interrupts held back (QEMU's default step mode). */
  async stepOne(cpu: number): Promise<Stop> {
    this.#requireFrozen('stepping');
    return this.#runPrivately({ kind: 'step', cpu }, STOP_LIMIT_MS);
  }

  /** To be told of each register write: a CPU whose program counter was set stands on no breakpoint any more. */
  noteWrites(writes: ReadonlyMap<number, Partial<CpuRegisters>>): void {
    for (const [cpu, values] of writes) if (values.rip !== undefined) this.#standing.delete(cpu);
  }

  /** The machine stood for a reset and need not be reset any more. */
  noteRevival(): void {
    this.#requireFrozen('going on after a reset');
    this.shutdownReason = undefined;
    this.#lastStop = { kind: 'paused', atMs: this.#lastStop.atMs };
  }

  /** The link is gone: every waiter gets the reason. */
  fail(error: NinelivesError): void {
    if (this.#lost) return;
    this.#lost = error;
    this.#state = 'ended';
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
  }

  async #runPrivately(what: Exclude<Resumption, { kind: 'all' }>, timeoutMs: number): Promise<Stop> {
    for (const cpu of what.kind === 'these' ? what.cpus : [what.cpu]) this.#standing.delete(cpu);
    this.#privateRun = true;
    this.#state = 'running';
    this.onState('running');
    const limit = setTimeout(() => {
      if (!this.#lost) this.#session.interrupt();
    }, timeoutMs);
    try {
      const stop = this.#nextStop(timeoutMs + STOP_LIMIT_MS);
      this.#session.resume(what);
      return await stop;
    } finally {
      clearTimeout(limit);
      this.#privateRun = false;
    }
  }

  async #stepOffBreakpoint(cpu: number): Promise<void> {
    const address = this.#standing.get(cpu);
    if (address === undefined) return;
    this.#standing.delete(cpu);
    if (!this.#breakpoints.has(address)) return;
    const removed = this.#session.removeBreakpoints([address]);
    await Promise.all([removed, this.stepOne(cpu)]);
    await this.#session.insertBreakpoints([address]);
  }

  #nextStop(timeoutMs?: number): Promise<Stop> {
    return new Promise<Stop>((resolve, reject) => {
      const waiter: Waiter = {
        resolve: (stop) => {
          clearTimeout(timer);
          resolve(stop);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              this.#waiters = this.#waiters.filter((other) => other !== waiter);
              reject(new NinelivesError('NL_TIMEOUT', `the machine did not stop within ${timeoutMs} ms`));
            }, timeoutMs);
      this.#waiters.push(waiter);
    });
  }

  #stopped(reply: StopReply, atMs: number): void {
    if (reply.kind === 'breakpoint') {
      this.#where(reply.cpu).then(
        (address) => this.#deliver({ kind: 'breakpoint', cpu: reply.cpu, address, atMs }),
        () => {}, // The link is gone: `fail` tells every waiter.
      );
    } else if (reply.kind === 'shutdown' && this.shutdownReason === undefined) {
      setTimeout(() => this.#deliver(toStop(reply, atMs, this.shutdownReason)), REASON_GRACE_MS);
    } else {
      this.#deliver(toStop(reply, atMs, this.shutdownReason));
    }
  }

  /** What was to tell it may fail for reasons of its own; a machine that stands is not to be taken for one that runs. */
  #where(cpu: number): Promise<bigint> {
    const asked = (): Promise<bigint> => this.#session.programCounter(cpu);
    return this.#privateRun ? asked() : this.addressOf(cpu).catch(asked);
  }

  #deliver(stop: Stop): void {
    if (this.#lost) return;
    if (stop.kind === 'breakpoint' && stop.address !== undefined && this.#breakpoints.has(stop.address))
      this.#standing.set(stop.cpu, stop.address);
    this.#state = 'frozen';
    const whole = !this.#privateRun || !canResume(stop);
    if (whole) this.#lastStop = stop;
    this.onState('frozen');
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.resolve(stop);
    if (whole) this.onStop(stop);
  }

  #requireAlive(): void {
    if (this.#lost) throw this.#lost;
  }

  #requireFrozen(what: string): void {
    this.#requireAlive();
    if (this.#state !== 'frozen') throw new NinelivesError('NL_INTERNAL', `${what} while the machine runs`);
  }
}
