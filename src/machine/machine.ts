/**
 * The box as hardware: CPUs, memory, interrupt controllers and the switch that stops them. Unites the debugger stub, QMP and
 * guest RAM of one QEMU. Nothing above this folder knows that it is QEMU.
 */
import { NinelivesError } from '../common/errors.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { IoApicPin, LapicState, View } from '../x86/view.js';
import { type HiddenRegisters, parseHiddenRegisters, parseIoApic, parseLapic } from './hmp.js';
import { closeLink, type Link, openLink } from './link.js';
import { identityOf, OwnedQemu } from './owned.js';
import { checkBinary } from './process.js';
import type { Qmp } from './qmp.js';
import { type GuestRam, MappedRam } from './ram.js';
import { openRam } from './ram-find.js';
import { revive } from './revive.js';
import type { MachineState, RunOneOptions } from './run-control.js';
import {
  checkSnapshot,
  loadDevices,
  type RamRestore,
  restoreRam,
  type SaveTimes,
  type SnapshotCheck,
  type SnapshotManifest,
  writeSnapshot,
} from './snapshot.js';
import type { MachineSpec, Origin } from './spec.js';
import { Standstill, type StandstillTimes } from './standstill.js';
import { type MachineEvent, type Stop, toMachineEvent } from './stop.js';
import { MachineView } from './view.js';

export interface AttachOptions {
  /** Path of a QMP socket of the running QEMU. */
  readonly qmpPath: string;
  /** Where the debugger stub is, or is to be: a socket path or host:port. Found or chosen when absent. */
  readonly gdb?: string;
}

type NotFitting = Exclude<SnapshotCheck, { kind: 'fits' }>;

export type StartedFromSnapshot =
  | { readonly kind: 'restored'; readonly machine: Machine; readonly manifest: SnapshotManifest }
  | NotFitting;

export type Restored =
  | {
      readonly kind: 'restored';
      readonly manifest: SnapshotManifest;
      readonly tookMs: number;
      readonly ram: RamRestore;
    }
  | NotFitting;

export class Machine {
  #link: Link;
  readonly #ram: GuestRam;
  readonly #owned: OwnedQemu | undefined;
  readonly #stopListeners = new Set<(stop: Stop) => void>();
  readonly #eventListeners = new Set<(event: MachineEvent) => void>();
  #leaveRunning: boolean;
  #closed: boolean = false;
  /** What is done while QEMU answers the capture that follows each stop; `undefined` when none does. */
  #meanwhile: (() => void) | undefined;
  /** Captured when the machine stopped, as long as nothing has changed since. */
  #atStop: Promise<View> | undefined;
  /** When the machine stopped and ran on, by QEMU's clock: since its last complete standstill. */
  #standstill = new Standstill();

  private constructor(link: Link, ram: GuestRam, owned: OwnedQemu | undefined) {
    this.#link = link;
    this.#ram = ram;
    this.#owned = owned;
    this.#leaveRunning = link.session.wasRunning;
    this.#listen();
  }

  /**
   * Attaches to a running QEMU: finds its RAM and CPUs, and its debugger stub, which it switches on when it is off.
   * The machine stands still afterwards (connecting to the stub stops it); `resume()` lets it go on.
   * @throws NL_QMP_LOST, NL_STUB_LOST, NL_STUB_BUSY, NL_QEMU_TOO_OLD, NL_QEMU_EXITED, NL_RAM_UNREACHABLE
   */
  static async attach(options: AttachOptions): Promise<Machine> {
    let ram: GuestRam | undefined;
    const link = await openLink(options, async (qmp, pid) => {
      ram = await openRam(qmp, pid);
    });
    return new Machine(link, ram!, undefined);
  }

  /**
   * Starts a machine. It stands still before its first instruction; `resume()` lets it boot.
   * @throws NL_QEMU_MISSING, NL_QEMU_TOO_OLD, NL_NO_SPACE, NL_ADDRESS_IN_USE, NL_QEMU_EXITED, NL_TIMEOUT
   */
  static async start(spec: MachineSpec): Promise<Machine> {
    return Machine.#launch(await OwnedQemu.create(spec), 'reset', async () => {});
  }

  /**
   * Starts a machine from a snapshot: it stands where it stood when it was saved. A snapshot that does not fit is told and
   * nothing is started. @throws as `start`, NL_QMP_ERROR when QEMU cannot load the device state
   */
  static async startFromSnapshot(spec: MachineSpec, dir: string): Promise<StartedFromSnapshot> {
    const check = checkSnapshot(dir, identityOf(spec, await checkBinary(spec.binary)));
    if (check.kind !== 'fits') return check;
    const machine = await Machine.#launch(await OwnedQemu.create(spec), 'incoming', async (qmp, ram) => {
      restoreRam(ram, dir);
      await loadDevices(qmp, dir);
    });
    return { kind: 'restored', machine, manifest: check.manifest };
  }

  static async #launch(
    owned: OwnedQemu,
    origin: Origin,
    prepare: (qmp: Qmp, ram: MappedRam) => Promise<void>,
  ): Promise<Machine> {
    let ram: GuestRam | undefined;
    try {
      const link = await owned.launch(origin, async (qmp, pid) => {
        ram = await openRam(qmp, pid, owned.ramFd);
        await prepare(qmp, requireMapped(ram));
      });
      return new Machine(link, ram!, owned);
    } catch (error) {
      if (ram) {
        ram[Symbol.dispose]();
        owned.remove();
      } else {
        owned.discard();
      }
      throw error;
    }
  }

  get cpuCount(): number {
    return this.#link.cpus.length;
  }

  get ram(): GuestRam {
    return this.#ram;
  }

  get qmp(): Qmp {
    return this.#link.qmp;
  }

  /** QEMU's process. */
  get pid(): number {
    return this.#link.pid;
  }

  /** Folder with the sockets and logs of a machine that we started. */
  get runtimeDir(): string | undefined {
    return this.#owned?.home.dir;
  }

  /** The host threads that execute the CPUs, by CPU. */
  get threadIds(): number[] {
    return this.#link.cpus.map((cpu) => cpu.threadId);
  }

  get state(): MachineState {
    return this.#link.control.state;
  }

  /** The stop that the machine stands in, or the last one it stood in. */
  get lastStop(): Stop {
    return this.#link.control.lastStop;
  }

  /** Whether the machine ran before we attached to it. */
  get wasRunning(): boolean {
    return this.#link.session.wasRunning;
  }

  /** Stops all CPUs; the stop it stands in where it stands already. @throws NL_TIMEOUT, NL_STUB_LOST, NL_QEMU_EXITED */
  freeze(): Promise<Stop> {
    return this.#link.control.freeze();
  }

  /** Lets all CPUs run. A CPU that stands on one of our breakpoints is stepped off it first. */
  async resume(): Promise<void> {
    await this.#link.control.resume();
    this.#standstill.toldWhole();
    this.#leaveRunning = true;
  }

  /**
   * Writes registers and lets all CPUs run, in one write to the stub: nothing waits for the answers while the machine stands. Where
   * one of the writes is refused after all, the machine is stopped again.
   * @throws NL_STUB_ERROR, NL_STUB_LOST; NL_QEMU_EXITED
   */
  async resumeWith(writes: ReadonlyMap<number, Partial<CpuRegisters>>): Promise<void> {
    const { control, session } = this.#link;
    this.#atStop = undefined;
    control.noteWrites(writes);
    const written = session.writeRegisters(writes);
    if (control.stepsFirst) await written;
    const resumed = control.resume().then(() => this.#standstill.toldWhole());
    this.#leaveRunning = true;
    try {
      await Promise.all([written, resumed]);
    } catch (error) {
      await control.freeze().catch(() => {}); // The first error is the one to tell.
      throw error;
    }
  }

  /**
   * Makes a machine that stopped with `reset` one that can be resumed, everything else as it was; see `revive.ts`.
   * @returns whether it can be resumed now
   * @throws NL_QMP_ERROR, NL_TIMEOUT, NL_QEMU_EXITED
   */
  async revive(): Promise<boolean> {
    const { control, qmp } = this.#link;
    if (this.lastStop.kind !== 'reset' || !(await revive(qmp))) return false;
    control.noteRevival();
    return true;
  }

  /**
   * How long the machine stood still the last time, from its stop to its resumption, by QEMU's own clock; both moments as
   * performance.now() gives them. Runs of single CPUs in between count as standing still. `undefined` when QEMU does not tell
   * in time, or tells what cannot be.
   */
  standstill(): Promise<StandstillTimes | undefined> {
    return this.#standstill.last();
  }

  /**
   * Has each stop at a breakpoint followed by a capture at once, so that its answer is under way when it is asked for. For
   * whoever captures at each stop: it takes QEMU a millisecond, in which we can do something else.
   * @param meanwhile called once the request has left; it may read the frozen machine's memory, and nothing of it may throw
   */
  captureAtStops(meanwhile: () => void): void {
    this.#meanwhile = meanwhile;
  }

  /** Ends that. */
  captureOnRequest(): void {
    this.#meanwhile = undefined;
  }

  /** The next stop; where the machine stands already, that one. @throws NL_TIMEOUT, NL_STUB_LOST, NL_QEMU_EXITED */
  waitForStop(timeoutMs?: number): Promise<Stop> {
    return this.#link.control.waitForStop(timeoutMs);
  }

  /** Calls `listener` at each stop of the whole machine from now on. Returns the end of the subscription. */
  onStop(listener: (stop: Stop) => void): () => void {
    this.#stopListeners.add(listener);
    return () => this.#stopListeners.delete(listener);
  }

  /** Calls `listener` with resets, shutdowns, guest panics and the end of QEMU. Returns the end of the subscription. */
  onEvent(listener: (event: MachineEvent) => void): () => void {
    this.#eventListeners.add(listener);
    return () => this.#eventListeners.delete(listener);
  }

  /** Registers of one CPU. See `registers.ts` for CPUs that are not in 64-bit code. */
  registers(cpu: number): Promise<CpuRegisters> {
    return this.#link.session.registers(cpu);
  }

  /** Registers of all CPUs, asked for in one write. */
  allRegisters(): Promise<CpuRegisters[]> {
    return this.#link.session.allRegisters(this.cpuCount);
  }

  /** Writes the given registers of one CPU: `cs`, `ss` and the other selectors first, then the rest. */
  writeRegisters(cpu: number, values: Partial<CpuRegisters>): Promise<void> {
    return this.writeAllRegisters(new Map([[cpu, values]]));
  }

  /** Writes registers of several CPUs in one write. Writing `cr3` (even the same value) flushes that CPU's TLB. */
  async writeAllRegisters(writes: ReadonlyMap<number, Partial<CpuRegisters>>): Promise<void> {
    this.#atStop = undefined;
    this.#link.control.noteWrites(writes);
    await this.#link.session.writeRegisters(writes);
  }

  /** What only QEMU's monitor tells of a CPU: halted or not, descriptor tables, task register. */
  async hiddenRegisters(cpu: number): Promise<HiddenRegisters> {
    const parsed = parseHiddenRegisters(await this.#link.session.monitor('info registers', cpu));
    if (!parsed) throw new NinelivesError('NL_QMP_ERROR', `"info registers" of CPU ${cpu} cannot be read`);
    return parsed;
  }

  /** Addresses of the breakpoints that are set. */
  get breakpoints(): ReadonlySet<bigint> {
    return this.#link.control.breakpoints;
  }

  /** Breakpoints are by virtual address, for all CPUs. QEMU holds them beside memory, so text does not change. */
  setBreakpoints(addresses: readonly bigint[]): Promise<void> {
    return this.#link.control.setBreakpoints(addresses);
  }

  /** Removes these breakpoints, or all of ours. */
  clearBreakpoints(addresses?: readonly bigint[]): Promise<void> {
    return this.#link.control.clearBreakpoints(addresses);
  }

  /** Runs one CPU, all others standing still. A stop of kind `paused`: the time was over (a halted CPU never runs). */
  runOne(cpu: number, options: RunOneOptions): Promise<Stop> {
    return this.#link.control.runOne(cpu, options);
  }

  /** Runs some CPUs for a time, all others standing still. */
  runThese(cpus: readonly number[], timeoutMs: number): Promise<Stop> {
    return this.#link.control.runThese(cpus, timeoutMs);
  }

  /** Executes one instruction on one CPU, with interrupts held back. */
  stepOne(cpu: number): Promise<Stop> {
    return this.#link.control.stepOne(cpu);
  }

  /** Memory as this CPU maps it, through the stub. For what is not in RAM; `ram` and a page walk are far faster. */
  readVirtual(cpu: number, address: bigint, length: number): Promise<Uint8Array> {
    return this.#link.session.readVirtual(cpu, address, length);
  }

  /**
   * Writes to a physical address through the stub. For text, since QEMU translates it anew then, and for devices: an MSI is
   * a write to 0xfee00000 | apicId << 12.
   */
  async writePhysicalStub(address: number, bytes: Uint8Array): Promise<void> {
    await this.#link.session.writePhysical(address, bytes);
    this.#ram.invalidate();
  }

  readPhysicalStub(address: number, length: number): Promise<Uint8Array> {
    return this.#link.session.readPhysical(address, length);
  }

  /** The local interrupt controllers of all CPUs. */
  lapics(): Promise<LapicState[]> {
    return Promise.all(
      this.#link.cpus.map(async (cpu) =>
        parseLapic(await this.#link.session.monitor('info lapic', cpu.index), cpu.apicId),
      ),
    );
  }

  /** The pins of the I/O interrupt controller. */
  async ioApic(): Promise<IoApicPin[]> {
    return parseIoApic(await this.#link.session.monitor('info pic', 0));
  }

  /**
   * A view of the frozen machine: registers and interrupt controllers as they are now, pages as they are when looked at.
   * It is good until the machine runs again.
   */
  capture(): Promise<View> {
    return this.#atStop ?? this.#captureNow();
  }

  async #captureNow(): Promise<View> {
    const [registers, lapics] = await Promise.all([this.allRegisters(), this.lapics()]);
    return new MachineView(registers, lapics, this.#ram);
  }

  /**
   * Saves the frozen machine as a folder, replacing an older snapshot there.
   * @param extra kept in the manifest for the caller
   * @throws NL_USAGE for a machine that we did not start, NL_NO_SPACE, NL_QMP_ERROR
   */
  async saveSnapshot(dir: string, extra: Readonly<Record<string, unknown>> = {}): Promise<SaveTimes> {
    const owned = this.#requireOwned('save');
    if (this.state !== 'frozen') throw new NinelivesError('NL_INTERNAL', 'a snapshot of a running machine');
    return writeSnapshot(dir, this.qmp, requireMapped(this.#ram), owned.identity, extra);
  }

  /**
   * Makes this machine what it was when the snapshot was saved: a new QEMU process with the same RAM and sockets, frozen. Console
   * connections have to be made again; breakpoints are gone. A snapshot that does not fit is told and nothing is changed.
   * @throws NL_USAGE for a machine that we did not start, and as `start`
   */
  async restoreSnapshot(dir: string): Promise<Restored> {
    const owned = this.#requireOwned('restore');
    const check = checkSnapshot(dir, owned.identity);
    if (check.kind !== 'fits') return check;
    const begin = performance.now();
    await this.#link.kill();
    let ramTimes: RamRestore | undefined;
    const ram = requireMapped(this.#ram);
    this.#link = await owned.launch('incoming', async (qmp) => {
      ramTimes = restoreRam(ram, dir);
      await loadDevices(qmp, dir);
    });
    this.#leaveRunning = false;
    this.#listen();
    return { kind: 'restored', manifest: check.manifest, tookMs: performance.now() - begin, ram: ramTimes! };
  }

  /** Lets go of the machine, as a guard does: our breakpoints are removed, and a machine that ran before runs on. */
  async detach(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await closeLink(this.#link, this.#leaveRunning ? 'run' : 'stand');
    } finally {
      this.#ram[Symbol.dispose]();
    }
  }

  /** Ends QEMU, whoever started it, and removes what we made for it. */
  async end(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.#link.terminate();
    } finally {
      this.#ram[Symbol.dispose]();
      this.#owned?.remove();
    }
  }

  /** A machine of lifetime `ours` ends; any other is left as a guard leaves it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await (this.#owned?.spec.lifetime === 'ours' ? this.end() : this.detach());
  }

  #requireOwned(verb: string): OwnedQemu {
    if (this.#owned) return this.#owned;
    throw new NinelivesError('NL_USAGE', `only a machine that ninelives started can ${verb} snapshots`, {
      fix: 'start the box with ninelives up',
    });
  }

  #listen(): void {
    const { control, qmp, session } = this.#link;
    control.onStop = (stop) => {
      for (const listener of [...this.#stopListeners]) listener(stop);
    };
    this.#ram.invalidate(control.state === 'frozen' ? 'frozen' : 'running');
    control.onState = (state) => {
      if (state === 'running') {
        this.#atStop = undefined;
        this.#standstill.told();
      }
      this.#ram.invalidate(state);
    };
    control.addressOf = async (cpu) => {
      if (this.#meanwhile === undefined) return session.programCounter(cpu);
      const captured = this.#captureNow();
      session.flush();
      this.#meanwhile();
      const { rip } = (await captured).registers(cpu);
      this.#atStop = captured;
      return rip;
    };
    this.#standstill = new Standstill();
    qmp.subscribe((event) => {
      this.#standstill.note(event);
      const told = toMachineEvent(event);
      if (told?.kind === 'shutdown') control.shutdownReason = told.reason;
      if (told) this.#tell(told);
    });
    this.#link.onLost = (error) => {
      if (!this.#closed) this.#tell({ kind: 'ended', error, atMs: performance.now() });
    };
  }

  #tell(event: MachineEvent): void {
    for (const listener of [...this.#eventListeners]) listener(event);
  }
}

function requireMapped(ram: GuestRam): MappedRam {
  if (ram instanceof MappedRam) return ram;
  throw new NinelivesError('NL_INTERNAL', 'a machine of ours whose RAM is not mapped');
}
