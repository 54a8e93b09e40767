/**
 * QEMU as a process: started in a session of its own (a Ctrl-C at our terminal does not reach it), tied to our life unless it is
 * to outlive us, its last words kept, and nothing of it left behind.
 *
 * The RAM file is unlinked as soon as QEMU has it open, so its memory is freed with its last user however that one ends.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import { requireVersion } from './attach.js';
import { isGone } from './proc.js';
import { Qmp } from './qmp.js';
import {
  consolePathIn,
  gdbPathIn,
  type Lifetime,
  type MachineSpec,
  memoryBytes,
  type Origin,
  qemuArguments,
  qmpPathIn,
  stderrPathIn,
} from './spec.js';

const SHM = '/dev/shm';
const OUR_PREFIX = 'ninelives-';
const START_LIMIT_MS = 20_000;
/** QEMU and the page tables need some room beside the guest's memory. */
const SHM_RESERVE = 16 * 2 ** 20;

/** The folder and the RAM of a machine that we start; outlives one QEMU process when a snapshot is restored. */
export interface Home {
  readonly dir: string;
  /** Whether the folder was made by us and goes with the machine. */
  readonly dirIsOurs: boolean;
  /** Path under which QEMU opens the RAM; exists only while QEMU starts. */
  readonly ramPath: string;
}

/**
 * Prepares folder and RAM file.
 * @returns the home, and the RAM file's descriptor, owned by the caller.
 * @throws NL_NO_SPACE, NL_ADDRESS_IN_USE
 */
export async function makeHome(spec: MachineSpec): Promise<{ home: Home; ramFd: number }> {
  sweep();
  requireSpace(memoryBytes(spec));
  const dirIsOurs = spec.runtimeDir === undefined;
  const dir = spec.runtimeDir ?? mkdtempSync(join(runtimeBase(), `${OUR_PREFIX}${ownerMark(spec.lifetime)}-`));
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const names = [...(spec.consoles ?? []), ...(spec.networks ?? [])];
  for (const path of [qmpPathIn(dir), gdbPathIn(dir), ...names.map((name) => consolePathIn(dir, name))])
    await requireFree(path);
  const ramPath = join(SHM, `${OUR_PREFIX}${process.pid}-${Math.random().toString(36).slice(2, 10)}`);
  const ramFd = openSync(ramPath, 'wx+', 0o600);
  ftruncateSync(ramFd, memoryBytes(spec));
  rmSync(ramPath);
  const home = { dir, dirIsOurs, ramPath };
  if (spec.lifetime === 'ours') removeAtExit(home);
  return { home, ramFd };
}

const homesAtExit = new Set<Home>();
let isRemovedAtExit = false;

/** For a process that ends without disposing of its machines; the kernel ends QEMU, this the folder. */
function removeAtExit(home: Home): void {
  if (!isRemovedAtExit)
    process.once('exit', () => {
      for (const one of homesAtExit) removeHome(one);
    });
  isRemovedAtExit = true;
  homesAtExit.add(home);
}

export function removeHome(home: Home): void {
  homesAtExit.delete(home);
  rmSync(home.ramPath, { force: true });
  if (home.dirIsOurs) rmSync(home.dir, { recursive: true, force: true });
}

/**
 * Starts QEMU and waits until it answers on QMP, standing still.
 * @throws NL_QEMU_EXITED with QEMU's last words, NL_ADDRESS_IN_USE, NL_TIMEOUT, NL_PACKAGE_MISSING (setpriv)
 */
export async function startQemu(spec: MachineSpec, home: Home, ramFd: number, origin: Origin): Promise<ChildProcess> {
  const log = openSync(stderrPathIn(home.dir), 'w', 0o600);
  // A name for the unlinked RAM, for as long as QEMU needs to open it. QMP reports it, and `openRam` knows it again.
  symlinkSync(`/proc/${process.pid}/fd/${ramFd}`, home.ramPath);
  try {
    const child = spawnTied(spec, qemuArguments(spec, home.dir, home.ramPath, origin), log);
    await awaitGreeting(child, home);
    return child;
  } finally {
    closeSync(log);
    rmSync(home.ramPath, { force: true });
  }
}

/** The end of what QEMU wrote to its standard error, at most 2000 characters. */
export function stderrTail(dir: string): string {
  try {
    return readFileSync(stderrPathIn(dir), 'utf8').trim().slice(-2000);
  } catch {
    return '';
  }
}

/**
 * `setpriv --pdeathsig` asks the kernel to kill QEMU when the thread that started it ends: nothing in our process has to
 * survive for that, not even after SIGKILL.
 */
function spawnTied(spec: MachineSpec, args: readonly string[], log: number): ChildProcess {
  const binary = spec.binary ?? 'qemu-system-x86_64';
  const [command, full] =
    spec.lifetime === 'ours' ? ['setpriv', ['--pdeathsig', 'KILL', '--', binary, ...args]] : [binary, [...args]];
  const child = spawn(command, full, { detached: true, stdio: ['ignore', log, log] });
  child.on('error', () => {}); // Reported by awaitGreeting; without a listener it would end us.
  child.unref();
  return child;
}

async function awaitGreeting(child: ChildProcess, home: Home): Promise<void> {
  let failed: Error | undefined;
  child.once('error', (error) => {
    failed = error;
  });
  const end = performance.now() + START_LIMIT_MS;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 4));
    if (failed)
      throw new NinelivesError('NL_QEMU_MISSING', `QEMU cannot be started: ${failed.message}`, {
        fix: 'install qemu-system-x86 and util-linux (setpriv)',
        cause: failed,
      });
    if (child.exitCode !== null || child.signalCode !== null) throw startFailure(stderrTail(home.dir));
    try {
      const qmp = await Qmp.open(qmpPathIn(home.dir), { greetingLimitMs: START_LIMIT_MS });
      qmp.close();
      return;
    } catch (error) {
      if (!isNinelivesError(error, 'NL_QMP_LOST')) throw error;
    }
    if (performance.now() > end) {
      if (child.pid !== undefined) process.kill(child.pid, 'SIGKILL');
      throw new NinelivesError('NL_TIMEOUT', `QEMU did not answer within ${START_LIMIT_MS} ms of its start`);
    }
  }
}

function startFailure(words: string): NinelivesError {
  if (/address already in use|could not set up host forwarding/i.test(words))
    return new NinelivesError('NL_ADDRESS_IN_USE', `QEMU cannot start: ${words}`, {
      fix: 'end the program that holds this port or socket, or choose another one',
    });
  if (/no space left|cannot allocate memory/i.test(words))
    return new NinelivesError('NL_NO_SPACE', `QEMU cannot start: ${words}`, { fix: 'use less memory or free some' });
  return new NinelivesError('NL_QEMU_EXITED', `QEMU ended at its start: ${words || '(it said nothing)'}`, {
    fix: 'read its last words; with KVM, see whether /dev/kvm can be used',
  });
}

/** @throws NL_NO_SPACE unless /dev/shm has room for this many bytes of guest memory. */
export function requireSpace(bytes: number, folder: string = SHM): void {
  const { bavail, bsize } = statfsSync(folder);
  const free = bavail * bsize;
  if (free >= bytes + SHM_RESERVE) return;
  const mib = (value: number): string => `${Math.ceil(value / 2 ** 20)} MiB`;
  throw new NinelivesError(
    'NL_NO_SPACE',
    `${folder} has ${mib(free)} free, but the box needs ${mib(bytes + SHM_RESERVE)}`,
    {
      fix: `give the box less memory, free some, or enlarge it: mount -o remount,size=${mib(bytes * 2).replace(' MiB', 'M')} ${folder}`,
    },
  );
}

const run = promisify(execFile);
const checked = new Map<string, Promise<string>>();

/**
 * The version of this QEMU, such as "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)". Asked once for each binary.
 * @throws NL_QEMU_MISSING, NL_QEMU_TOO_OLD
 */
export function checkBinary(binary = 'qemu-system-x86_64'): Promise<string> {
  let answer = checked.get(binary);
  if (!answer) {
    answer = askVersion(binary);
    checked.set(binary, answer);
    answer.catch(() => checked.delete(binary));
  }
  return answer;
}

async function askVersion(binary: string): Promise<string> {
  let text: string;
  try {
    text = (await run(binary, ['--version'])).stdout;
  } catch (error) {
    throw new NinelivesError('NL_QEMU_MISSING', `${binary} cannot be run`, {
      fix: 'install it: apt-get install qemu-system-x86',
      cause: error,
    });
  }
  const match = /version ((\d+)\.(\d+).*)/.exec(text);
  requireVersion({ major: Number(match?.[2] ?? 0), minor: Number(match?.[3] ?? 0) });
  return match?.[1] ?? '';
}

/** QEMU silently takes over the path of a Unix socket that another process listens on, so it has to be us who look. */
async function requireFree(path: string): Promise<void> {
  if (path.length > 107)
    throw new NinelivesError('NL_USAGE', `the socket path ${path} is longer than 107 characters`, {
      fix: 'choose a shorter runtime folder (XDG_RUNTIME_DIR)',
    });
  if (!existsSync(path)) return;
  const listening = await new Promise<boolean>((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
  if (listening)
    throw new NinelivesError('NL_ADDRESS_IN_USE', `another process listens on ${path}`, {
      fix: 'end that machine first, or use another runtime folder',
    });
  rmSync(path);
}

function runtimeBase(): string {
  const wanted = process.env.XDG_RUNTIME_DIR;
  return wanted !== undefined && existsSync(wanted) ? wanted : tmpdir();
}

/** A detached box's folder must not look like one whose owner is gone. */
const ownerMark = (lifetime: Lifetime): string => (lifetime === 'ours' ? String(process.pid) : 'box');

/** Removes folders and RAM files of supervisors that were killed before they could do so. */
function sweep(): void {
  for (const base of [runtimeBase(), SHM]) {
    for (const name of readdirSync(base)) {
      const owner = /^ninelives-(\d+)-/.exec(name)?.[1];
      if (owner !== undefined && Number(owner) !== process.pid && isGone(Number(owner)))
        rmSync(join(base, name), { recursive: true, force: true });
    }
  }
}
