/**
 * A box: one emulated machine with Xen, dom0 and AppVMs, all doing work. Made from Debian's packages, booted once, and from
 * then on restored from its snapshot in about a second.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NinelivesError } from '../common/errors.js';
import { type Progress, silent } from '../common/progress.js';
import { Machine, type Restored } from '../machine/machine.js';
import { consoleLogIn, consolePathIn, type MachineSpec } from '../machine/spec.js';
import { privilegeLevel } from '../x86/registers.js';
import { Dom0Agent } from './agent.js';
import { type BoxFiles, buildImages } from './images.js';
import { fetchPackages, installPrograms } from './packages.js';
import { cacheFolder } from './paths.js';
import { ReportReader, type VmReport } from './reports.js';
import { type BoxSpec, checkBoxSpec, DOM0, SPARE } from './spec.js';

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
}

const CONSOLE = 'xen';
const AGENT = 'agent';
/** An idle 2-core host needs less than a minute, one that is busy with other things several times that. */
const BOOT_LIMIT_MS = 600_000;
/** Without a word on the console or a step of work for this long, a boot is stuck. */
const SILENCE_LIMIT_MS = 120_000;
const POLL_MS = 200;
/** A scan of all RAM takes the booting machine some tens of milliseconds of a CPU. */
const SCAN_EVERY_MS = 1000;
/** Steps of work that each VM has done when the box counts as up: past everything that only happens at boot. */
const UP_STEPS = 5;
const SAFE_MOMENT_LIMIT_MS = 60_000;
/**
 * Virtual addresses that are Xen's (4.17, xen/arch/x86/include/asm/config.h): the first CPU's interrupt table is in Xen's
 * image, the others' are on its heap. Linux has its own elsewhere.
 */
const XEN_BEGIN = 0xffff800000000000n;
const XEN_END = 0xffff880000000000n;
/** A VM that shows no progress for this long is looked for anew: its page may have moved. */
const STALE_MS = 1500;
/** Console text that ends a boot: Xen's and Linux's panics, and what `guest/dom0-init.sh` calls an error. */
const BOOT_FAILURE = /Panic on CPU|Kernel panic|^ninelives: .*ERROR/m;

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
  readonly #reader: ReportReader;
  readonly #progress = new Map<string, { n: number; atMs: number }>();
  #rescannedMs: number = 0;

  constructor(
    parts: Pick<Box, 'spec' | 'files' | 'machine' | 'origin' | 'snapshotDir'> & { readonly reader: ReportReader },
  ) {
    this.spec = parts.spec;
    this.files = parts.files;
    this.machine = parts.machine;
    this.origin = parts.origin;
    this.snapshotDir = parts.snapshotDir;
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
   */
  async createVm(limitMs: number = 60_000): Promise<NewVm> {
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
    while (performance.now() < end) {
      this.#reader.rescan();
      const report = this.#reader.read().find((one) => one.name === name);
      if (report && report.n > 0) return { kind: 'created', name, createMs, workingMs: performance.now() - begin };
      await sleep(POLL_MS);
    }
    return { kind: 'failed', name, reason: `it was created, but does not work after ${limitMs} ms` };
  }

  /**
   * Makes the box what it was when its snapshot was taken, running. The same object goes on being used; the machine below
   * has a new QEMU process. @throws NL_INTERNAL when there is no fitting snapshot (there always is after `openBox`)
   */
  async restore(): Promise<Extract<Restored, { kind: 'restored' }>> {
    const restored = await this.machine.restoreSnapshot(this.snapshotDir);
    if (restored.kind !== 'restored')
      throw new NinelivesError('NL_INTERNAL', `the snapshot in ${this.snapshotDir} is gone: ${restored.kind}`);
    this.#reader.reset(framesOf(restored.manifest.extra));
    this.#progress.clear();
    this.#rescannedMs = 0;
    await this.machine.resume();
    return restored;
  }

  /** Ends the box. */
  stop(): Promise<void> {
    return this.machine.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine[Symbol.asyncDispose]();
  }
}

/** QEMU's part of a box. Pure. */
export function machineSpecOf(spec: BoxSpec, files: BoxFiles, options: BoxOptions = {}): MachineSpec {
  const xen = [
    'com1=115200,8n1 console=com1',
    `dom0_mem=${DOM0.memoryMiB}M,max:${DOM0.memoryMiB}M dom0_max_vcpus=${Math.min(DOM0.vcpus, spec.cpus)}`,
    ...(spec.pinning === 'one-cpu-each' ? ['dom0_vcpus_pin'] : []),
    // Scrubbing would touch, and so allocate, every page of the box.
    'bootscrub=0 noreboot loglvl=all guest_loglvl=warning',
  ];
  const dom0 = 'console=hvc0 quiet loglevel=3 mitigations=off cryptomgr.notests';
  return {
    accel: spec.accel,
    cpus: spec.cpus,
    memoryMiB: spec.memoryMiB,
    args: [
      // A generic CPU with AMD's virtualisation: TCG emulates that one, nested paging included.
      ...['-cpu', spec.accel === 'kvm' ? 'host' : 'qemu64,+svm,+npt'],
      ...['-kernel', files.xen, '-append', xen.join(' ')],
      ...['-initrd', `${escapeComma(files.kernel)} ${dom0},${escapeComma(files.initramfs)}`],
      ...['-serial', `chardev:${CONSOLE}`, '-serial', `chardev:${AGENT}`],
    ],
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
  await installPrograms(progress);
  const { xenVersion } = spec;
  const packages = await fetchPackages({ cache, ...(xenVersion === undefined ? {} : { xenVersion }) }, progress);
  return buildImages(packages, spec, cache, progress);
}

/**
 * A running box with all VMs at work: restored from its snapshot where that fits, else booted, and saved for the next time.
 * @throws NL_BOOT_FAILED, and what `prepareBox` and `Machine.start` throw
 */
export async function openBox(spec: BoxSpec, progress: Progress = silent, options: BoxOptions = {}): Promise<Box> {
  const files = await prepareBox(spec, progress, options);
  const machineSpec = machineSpecOf(spec, files, options);
  const snapshotDir = snapshotFolder(spec, files, options.cache ?? cacheFolder());
  let why = 'asked for';
  if (options.snapshot !== 'renew') {
    progress.step('restoring the box');
    const begin = performance.now();
    const started = await Machine.startFromSnapshot(machineSpec, snapshotDir);
    if (started.kind === 'restored') {
      const { machine, manifest } = started;
      const reader = new ReportReader(() => machine.ram, files.magic, framesOf(manifest.extra));
      await endOnError(machine, () => machine.resume());
      const origin: BoxOrigin = { kind: 'restored', tookMs: performance.now() - begin };
      return new Box({ spec, files, machine, origin, snapshotDir, reader });
    }
    why = reasonOf(started);
    progress.detail(`${why}: a new one is made`);
  }
  return bootAndSave(spec, files, machineSpec, snapshotDir, why, progress);
}

async function bootAndSave(
  spec: BoxSpec,
  files: BoxFiles,
  machineSpec: MachineSpec,
  snapshotDir: string,
  why: string,
  progress: Progress,
): Promise<Box> {
  progress.step('booting the box');
  const begin = performance.now();
  const machine = await Machine.start(machineSpec);
  return endOnError(machine, async () => {
    const reader = new ReportReader(() => machine.ram, files.magic);
    await machine.resume();
    await awaitUp(spec, machine, reader, progress);
    const tookMs = performance.now() - begin;
    progress.step('saving a snapshot');
    await freezeForSaving(machine, spec);
    reader.rescan();
    const { devicesMs, ramMs } = await machine.saveSnapshot(snapshotDir, { reportFrames: reader.frames });
    await machine.resume();
    const origin: BoxOrigin = { kind: 'booted', tookMs, snapshotMs: devicesMs + ramMs, why };
    return new Box({ spec, files, machine, origin, snapshotDir, reader });
  });
}

/** Waits until all VMs have done some work. @throws NL_BOOT_FAILED with the end of the console */
async function awaitUp(spec: BoxSpec, machine: Machine, reader: ReportReader, progress: Progress): Promise<void> {
  const dir = runtimeDirOf(machine);
  const begin = performance.now();
  let spokenMs = begin;
  let scannedMs = 0;
  let length = 0;
  const fail = (what: string): never => {
    throw new NinelivesError('NL_BOOT_FAILED', `the box did not boot: ${what}\n${tail(consoleText(dir), 30)}`, {
      fix: 'read the console above; a busy host may need a second try',
    });
  };
  for (;;) {
    await sleep(POLL_MS);
    const now = performance.now();
    const text = consoleText(dir);
    if (text.length !== length) spokenMs = now;
    length = text.length;
    const failure = BOOT_FAILURE.exec(text);
    if (failure) fail(lineAt(text, failure.index));
    if (machine.state !== 'running') fail(`the machine stopped (${machine.lastStop.kind})`);
    if (now - begin > BOOT_LIMIT_MS) fail(`not all VMs were up after ${BOOT_LIMIT_MS / 1000} s`);
    if (now - spokenMs > SILENCE_LIMIT_MS) fail(`nothing happened for ${SILENCE_LIMIT_MS / 1000} s`);
    // Reports are looked for only once dom0's init has spoken: a scan costs the booting machine some time.
    if (!/^ninelives: dom0/m.test(text)) {
      progress.detail(text === '' ? 'firmware' : 'Xen and dom0');
      continue;
    }
    if (now - scannedMs >= SCAN_EVERY_MS) {
      reader.rescan();
      scannedMs = now;
    }
    const steps = new Map(reader.read().map((report) => [report.name, report.n]));
    const names = ['dom0', ...spec.guests.map((guest) => guest.name)];
    const lacking = names.filter((name) => (steps.get(name) ?? 0) < UP_STEPS);
    if (lacking.length === 0) return;
    progress.detail(`waiting for ${lacking.join(', ')}, ${Math.round((now - begin) / 1000)} s`);
  }
}

/**
 * Freezes the machine at a moment whose state QEMU can load again. QEMU 7.2 refuses a CPU that was saved inside an HVM guest
 * (`cpu_post_load` of target/i386/machine.c takes it for an inconsistent KVM state), and does not save that interrupts are held
 * back around the entry to one. A CPU in `hlt`, or in a PV guest under Xen's interrupt table, is neither.
 * @throws NL_TIMEOUT
 */
async function freezeForSaving(machine: Machine, spec: BoxSpec): Promise<void> {
  const end = performance.now() + SAFE_MOMENT_LIMIT_MS;
  for (;;) {
    await machine.freeze();
    if (spec.accel !== 'tcg' || (await canBeSaved(machine))) return;
    if (performance.now() > end)
      throw new NinelivesError('NL_TIMEOUT', 'no moment was found at which the box can be saved', { fix: 'try again' });
    await machine.resume();
    // Of changing length, so as not to meet the same phase of the guests' timers each time.
    await sleep(5 + Math.random() * 25);
  }
}

async function canBeSaved(machine: Machine): Promise<boolean> {
  const registers = await machine.allRegisters();
  for (const [cpu, { cs }] of registers.entries()) {
    const { halted, idt } = await machine.hiddenRegisters(cpu);
    const underXen = idt.base >= XEN_BEGIN && idt.base < XEN_END;
    if (!underXen || !(halted || privilegeLevel({ cs }) === 3)) return false;
  }
  return true;
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
function snapshotFolder(spec: BoxSpec, files: BoxFiles, cache: string): string {
  const { name, cpus, memoryMiB, accel } = spec;
  return join(cache, 'snapshots', `${name}-${cpus}cpu-${memoryMiB}M-${accel}-xen${files.xenVersion}`);
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

function runtimeDirOf(machine: Machine): string {
  const dir = machine.runtimeDir;
  if (dir === undefined) throw new NinelivesError('NL_INTERNAL', 'a box whose machine we did not start');
  return dir;
}

function consoleText(dir: string): string {
  const path = consoleLogIn(dir, CONSOLE);
  return existsSync(path) ? readFileSync(path, 'latin1').replaceAll('\r', '') : '';
}

/** The last lines, without the control sequences of terminals. */
function tail(text: string, lines: number): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
  const plain = text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '');
  return plain.trimEnd().split('\n').slice(-lines).join('\n');
}

const lineAt = (text: string, index: number): string => text.slice(index).split('\n')[0] ?? '';
const escapeComma = (text: string): string => text.replaceAll(',', ',,');
