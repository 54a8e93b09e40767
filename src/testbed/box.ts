/**
 * A box: one emulated machine with Xen, dom0 and AppVMs, all doing work. Made from Debian's packages, booted once, and from
 * then on restored from its snapshot in about a second.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import { type Progress, silent } from '../common/progress.js';
import { Machine, type Restored } from '../machine/machine.js';
import { consolePathIn, type MachineSpec, networkPathIn } from '../machine/spec.js';
import { Dom0Agent } from './agent.js';
import { awaitUp, CONSOLE, consoleText, runtimeDirOf, tail } from './boot.js';
import { type BoxFiles, buildImages } from './images.js';
import { CABLE, cardOf, neighboursOf } from './net/files.js';
import { newVmState } from './new-vm.js';
import { awaitAnswers, OutsideHost } from './outside-host.js';
import { fetchPackages, installPrograms } from './packages.js';
import { cacheFolder } from './paths.js';
import { ReportReader, type VmReport } from './reports.js';
import { freezeForSaving } from './safe-moment.js';
import { type BoxSpec, checkBoxSpec, SPARE } from './spec.js';

/** How a box is started; what it *is* stands in its spec. */
export interface BoxOptions {
  /** Default `cacheFolder()`. */
  readonly cache?: string;
  /** `ours`: the box ends with this process. `detached`: it stays. Default `ours`. */
  readonly lifetime?: MachineSpec['lifetime'];
  /** Folder for sockets and logs. Default: a private one that goes with the box. */
  readonly runtimeDir?: string;
  /** Whether an existing snapshot may be used. Default `use`. */
  readonly snapshot?: 'use' | 'renew';
  /** When it is aborted, the opening ends with its reason as soon as possible and leaves nothing behind. */
  readonly signal?: AbortSignal;
}

const AGENT = 'agent';
/**
 * Each instruction takes 2 ns of the box's time. With `sleep=off` idle time is skipped (QEMU 7.2's manual has it the other way round).
 * The clock of the day begins with a date of its own.
 */
const INSTRUCTION_CLOCK = ['-icount', 'shift=1,sleep=off', '-rtc', 'base=2026-01-01,clock=vm'] as const;
const POLL_MS = 50;
/** A VM that shows no progress for this long is looked for anew: its page may have moved. */
const STALE_MS = 1500;
/** How a box came up. */
export type BoxOrigin =
  | { readonly kind: 'booted'; readonly tookMs: number; readonly snapshotMs: number; readonly why: string }
  | { readonly kind: 'restored'; readonly tookMs: number };

/** What came of creating one more VM. */
export type NewVm =
  | { readonly kind: 'created'; readonly name: string; readonly createMs: number; readonly workingMs: number }
  | { readonly kind: 'failed'; readonly name: string; readonly reason: string };

export class Box {
  readonly spec: BoxSpec;
  readonly files: BoxFiles;
  readonly machine: Machine;
  readonly dom0: Dom0Agent;
  readonly origin: BoxOrigin;
  /** Folder of the snapshot that `restore` goes back to. */
  readonly snapshotDir: string;
  /** The sender of NetBench's pings; absent where no VM answers them. It pings from the start, and anew after `restore`. */
  readonly outside: OutsideHost | undefined;
  readonly #reader: ReportReader;
  readonly #progress = new Map<string, { n: number; atMs: number }>();
  #rescannedMs: number = 0;

  constructor(
    parts: Pick<Box, 'spec' | 'files' | 'machine' | 'origin' | 'snapshotDir' | 'outside'> & {
      readonly reader: ReportReader;
    },
  ) {
    this.spec = parts.spec;
    this.files = parts.files;
    this.machine = parts.machine;
    this.origin = parts.origin;
    this.snapshotDir = parts.snapshotDir;
    this.outside = parts.outside;
    this.#reader = parts.reader;
    this.dom0 = new Dom0Agent(consolePathIn(this.runtimeDir, AGENT));
  }

  /** Folder with the sockets and logs. */
  get runtimeDir(): string {
    return runtimeDirOf(this.machine);
  }

  /** Socket of Xen's and dom0's console. */
  get consolePath(): string {
    return consolePathIn(this.runtimeDir, CONSOLE);
  }

  /** Names of the VMs that the box has from its start: dom0 and the AppVMs. */
  get vmNames(): string[] {
    return ['dom0', ...this.spec.guests.map((guest) => guest.name)];
  }

  /** The last report of each VM that ever reported, read from the box's memory; good while it runs and while it stands. */
  vms(): VmReport[] {
    const reports = this.#reader.read();
    const now = performance.now();
    let stale = this.vmNames.some((name) => !reports.some((report) => report.name === name));
    for (const { name, n } of reports) {
      const known = this.#progress.get(name);
      if (!known || known.n !== n) this.#progress.set(name, { n, atMs: now });
      else if (now - known.atMs > STALE_MS) stale = true;
    }
    if (!stale || now - this.#rescannedMs < STALE_MS) return reports;
    this.#rescannedMs = now;
    this.#reader.rescan();
    return this.#reader.read();
  }

  /** The last lines of Xen's and dom0's console. */
  consoleTail(lines: number = 40): string {
    return tail(consoleText(this.runtimeDir), lines);
  }

  /**
   * Has dom0 create one more VM and waits until it works. A VM that cannot be created is a result, not an error.
   * @param limitMs for the creation, and again for the first step of work
   * @param signal aborted when nobody waits for the first step any more
   */
  async createVm(limitMs: number = 60_000, signal?: AbortSignal): Promise<NewVm> {
    const { name } = SPARE;
    const begin = performance.now();
    try {
      const answer = await this.dom0.run(`xl create -q -e /etc/ninelives/spare/${name}.cfg`, limitMs);
      if (answer.status !== 0)
        return { kind: 'failed', name, reason: `xl create: ${answer.output.trim() || `status ${answer.status}`}` };
    } catch (error) {
      if (!(error instanceof NinelivesError) || error.code !== 'NL_TIMEOUT') throw error;
      return { kind: 'failed', name, reason: error.message };
    }
    const createMs = performance.now() - begin;
    const end = performance.now() + limitMs;
    for (;;) {
      const known = this.#reader.read().find((one) => one.name === name);
      if (known === undefined) this.#reader.rescan();
      const state = newVmState(known ?? this.#reader.read().find((one) => one.name === name));
      if (state.kind === 'works') return { kind: 'created', name, createMs, workingMs: performance.now() - begin };
      if (state.kind === 'failed') return { kind: 'failed', name, reason: state.reason };
      if (performance.now() > end || signal?.aborted === true)
        return { kind: 'failed', name, reason: `after ${Math.round(performance.now() - begin)} ms ${state.reason}` };
      await sleep(POLL_MS);
    }
  }

  /**
   * Makes the box what it was when its snapshot was taken, running, or frozen at that very moment. The same object goes on being
   * used; the machine below has a new QEMU process. @throws NL_INTERNAL when there is no fitting snapshot (there always is after `openBox`)
   */
  async restore(state: 'running' | 'frozen' = 'running'): Promise<Extract<Restored, { kind: 'restored' }>> {
    const restored = await this.machine.restoreSnapshot(this.snapshotDir);
    if (restored.kind !== 'restored')
      throw new NinelivesError('NL_INTERNAL', `the snapshot in ${this.snapshotDir} is gone: ${restored.kind}`);
    this.#reader.reset(framesOf(restored.manifest.extra));
    this.#progress.clear();
    this.#rescannedMs = 0;
    await this.outside?.reconnect();
    if (state === 'running') {
      await this.machine.resume();
      this.outside?.resume();
    }
    return restored;
  }

  /** Ends the box. */
  stop(): Promise<void> {
    this.outside?.[Symbol.dispose]();
    return this.machine.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.outside?.[Symbol.dispose]();
    await this.machine[Symbol.asyncDispose]();
  }
}

/** QEMU's part of a box. Pure. */
export function machineSpecOf(spec: BoxSpec, files: BoxFiles, options: BoxOptions = {}): MachineSpec {
  const xen = [
    'com1=115200,8n1 console=com1',
    `dom0_mem=${spec.dom0.memoryMiB}M,max:${spec.dom0.memoryMiB}M`,
    `dom0_max_vcpus=${Math.min(spec.dom0.vcpus, spec.cpus)}`,
    ...(spec.pinning === 'one-cpu-each' ? ['dom0_vcpus_pin'] : []),
    // Scrubbing would touch, and so allocate, every page of the box.
    'bootscrub=0 noreboot loglvl=all guest_loglvl=warning',
  ];
  const dom0 = 'console=hvc0 quiet loglevel=3 mitigations=off cryptomgr.notests';
  const card = cardOf(spec);
  return {
    accel: spec.accel,
    cpus: spec.cpus,
    memoryMiB: spec.memoryMiB,
    args: [
      // A generic CPU with AMD's virtualisation: TCG emulates that one, nested paging included.
      ...(spec.clock === 'instructions' ? INSTRUCTION_CLOCK : []),
      ...['-cpu', spec.accel === 'kvm' ? 'host' : 'qemu64,+svm,+npt'],
      ...['-kernel', files.xen, '-append', xen.join(' ')],
      ...['-initrd', `${escapeComma(files.kernel)} ${dom0},${escapeComma(files.initramfs)}`],
      ...['-serial', `chardev:${CONSOLE}`, '-serial', `chardev:${AGENT}`],
      ...card.args,
    ],
    ...(card.networks === undefined ? {} : { networks: card.networks }),
    consoles: [CONSOLE, AGENT],
    lifetime: options.lifetime ?? 'ours',
    ...(options.runtimeDir === undefined ? {} : { runtimeDir: options.runtimeDir }),
    imageHash: files.hash,
  };
}

/**
 * Sees to programs, packages and images. @throws NL_USAGE, NL_PACKAGE_MISSING, NL_ELF_INVALID, NL_NO_SPACE
 */
export async function prepareBox(
  spec: BoxSpec,
  progress: Progress = silent,
  options: BoxOptions = {},
): Promise<BoxFiles> {
  checkBoxSpec(spec);
  const cache = options.cache ?? cacheFolder();
  await installPrograms(progress, options.signal);
  const { xenVersion } = spec;
  const { signal } = options;
  const wanted = { cache, signal, ...(xenVersion === undefined ? {} : { xenVersion }) };
  return buildImages(await fetchPackages(wanted, progress), spec, cache, progress, signal);
}

/**
 * A running box with all VMs at work: restored from its snapshot where that fits, else booted, and saved for the next time.
 * @throws NL_BOOT_FAILED, the signal's reason, and what `prepareBox` and `Machine.start` throw
 */
export async function openBox(spec: BoxSpec, progress: Progress = silent, options: BoxOptions = {}): Promise<Box> {
  const files = await prepareBox(spec, progress, options);
  const machineSpec = machineSpecOf(spec, files, options);
  const snapshotDir = snapshotFolder(spec, files, options.cache ?? cacheFolder());
  let why = 'asked for';
  if (options.snapshot !== 'renew') {
    progress.step('restoring the box');
    const begin = performance.now();
    options.signal?.throwIfAborted();
    const started = await Machine.startFromSnapshot(machineSpec, snapshotDir);
    if (started.kind === 'restored') {
      const { machine, manifest } = started;
      const reader = new ReportReader(() => machine.ram, files.magic, framesOf(manifest.extra));
      const outside = await endOnError(machine, async () => {
        options.signal?.throwIfAborted();
        const host = await plugIn(spec, machine);
        await machine.resume();
        host?.resume();
        return host;
      });
      const origin: BoxOrigin = { kind: 'restored', tookMs: performance.now() - begin };
      return new Box({ spec, files, machine, origin, snapshotDir, outside, reader });
    }
    why = reasonOf(started);
    progress.detail(`${why}: a new one is made`);
  }
  const boot: Boot = { spec, files, machineSpec, snapshotDir, why, signal: options.signal };
  try {
    return await bootAndSave(boot, progress);
  } catch (error) {
    if (!isNinelivesError(error, 'NL_BOOT_FAILED')) throw error;
    // A boot is nobody's experiment: what failed is told, and tried once more.
    progress.detail(`${error.message.split('\n')[0]}; once more`);
    return bootAndSave(boot, progress);
  }
}

interface Boot {
  readonly spec: BoxSpec;
  readonly files: BoxFiles;
  readonly machineSpec: MachineSpec;
  readonly snapshotDir: string;
  readonly why: string;
  readonly signal: AbortSignal | undefined;
}

async function bootAndSave(boot: Boot, progress: Progress): Promise<Box> {
  const { spec, files, machineSpec, snapshotDir, why, signal } = boot;
  signal?.throwIfAborted();
  progress.step('booting the box');
  const begin = performance.now();
  const machine = await Machine.start(machineSpec);
  return endOnError(machine, async () => {
    const reader = new ReportReader(() => machine.ram, files.magic);
    await machine.resume();
    await awaitUp(spec, machine, reader, progress, signal);
    const outside = await plugIn(spec, machine);
    if (outside) await awaitAnswers(outside, signal);
    const tookMs = performance.now() - begin;
    progress.step('saving a snapshot');
    await freezeForSaving(machine, spec, signal);
    reader.rescan();
    const { devicesMs, ramMs } = await machine.saveSnapshot(snapshotDir, { reportFrames: reader.frames });
    signal?.throwIfAborted();
    await outside?.reconnect();
    await machine.resume();
    outside?.resume();
    const origin: BoxOrigin = { kind: 'booted', tookMs, snapshotMs: devicesMs + ramMs, why };
    return new Box({ spec, files, machine, origin, snapshotDir, outside, reader });
  });
}

/** The sender at the box's network, silent; `undefined` where no VM answers. */
async function plugIn(spec: BoxSpec, machine: Machine): Promise<OutsideHost | undefined> {
  const neighbours = neighboursOf(spec);
  if (neighbours.length === 0) return undefined;
  return OutsideHost.connect(networkPathIn(runtimeDirOf(machine), CABLE), neighbours);
}

async function endOnError<T>(machine: Machine, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    await machine.end().catch(() => {}); // The first error is the one to tell.
    throw error;
  }
}

/** One folder for each choice of a user: a snapshot that does not fit any more is replaced, not kept beside the new one. */
export function snapshotFolder(spec: BoxSpec, files: Pick<BoxFiles, 'xenVersion'>, cache: string): string {
  const { name, cpus, memoryMiB, accel, clock, dom0, guests, newVm, pinning } = spec;
  const vms = createHash('sha256')
    .update(JSON.stringify([dom0, guests, newVm, pinning]))
    .digest('hex')
    .slice(0, 8);
  return join(
    cache,
    'snapshots',
    `${name}-${cpus}cpu-${memoryMiB}M-${accel}${clock === 'host' ? '' : `-${clock}`}-${vms}-xen${files.xenVersion}`,
  );
}

function framesOf(extra: Readonly<Record<string, unknown>>): number[] {
  const { reportFrames } = extra;
  return Array.isArray(reportFrames) ? reportFrames.filter((frame): frame is number => typeof frame === 'number') : [];
}

type NotRestored = Exclude<Awaited<ReturnType<typeof Machine.startFromSnapshot>>, { kind: 'restored' }>;

function reasonOf(started: NotRestored): string {
  switch (started.kind) {
    case 'missing':
      return 'no snapshot yet';
    case 'damaged':
      return `the snapshot is damaged (${started.reason})`;
    case 'mismatch':
      return `the snapshot is of another ${started.differences.map(({ what }) => DIFFERENCE[what]).join(' and ')}`;
  }
}

const DIFFERENCE = {
  qemu: 'QEMU',
  cpus: 'number of CPUs',
  memoryBytes: 'memory size',
  argumentsHash: 'QEMU command line',
  imageHash: 'image or ninelives version',
} as const;

const escapeComma = (text: string): string => text.replaceAll(',', ',,');
