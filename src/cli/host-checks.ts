/** What of this machine is fit to run a box. Each check looks only; nothing is changed or started. */
import { execFile } from 'node:child_process';
import { access, constants, readFile, stat, statfs } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { knownProfiles } from '../layout/profile.js';
import { lackingPackages } from '../testbed/packages.js';
import { type Check, failed, ok, warning } from './check.js';

const execFileAsync = promisify(execFile);

const MIB = 1024 * 1024;
const OLDEST_NODE = [20, 19] as const;
/** QEMU 7.2 is what Debian 12 has and what everything was tried on; older ones lack `x-ignore-shared` fixes. */
const OLDEST_QEMU = [7, 2] as const;
/** Packages, images and one snapshot of a 2 GiB box. */
const CACHE_MIB = 3072;

export interface HostQuestion {
  /** Memory of the box that is wanted, in MiB. */
  readonly memoryMib: number;
  readonly cacheFolder: string;
  /** Folder with layout profiles; those that come with ninelives when absent. */
  readonly profiles: string | undefined;
}

export async function checkHost({ memoryMib, cacheFolder, profiles }: HostQuestion): Promise<Check[]> {
  return [
    checkNode(process.versions.node),
    await checkQemu(),
    ...lackingPackages().map((name) => failed(name, 'not installed', INSTALL)),
    checkProcessors(),
    checkMemory(memoryMib),
    await checkSharedMemory(memoryMib),
    await checkCache(cacheFolder),
    checkProfiles(profiles),
    await checkKvm(),
  ];
}

const INSTALL =
  'run "ninelives doctor --install" as root or with sudo, or: sudo apt-get install qemu-system-x86 xz-utils';

const atLeast = (version: string, [major, minor]: readonly [number, number]): boolean => {
  const [a = 0, b = 0] = version.split('.').map(Number);
  return a > major || (a === major && b >= minor);
};

function checkNode(version: string): Check {
  return atLeast(version, OLDEST_NODE)
    ? ok('Node.js', version)
    : failed('Node.js', version, `install Node.js ${OLDEST_NODE.join('.')} or newer from https://nodejs.org`);
}

async function checkQemu(): Promise<Check> {
  try {
    const { stdout } = await execFileAsync('qemu-system-x86_64', ['--version']);
    const version = /version (\d+\.\d+(?:\.\d+)?)/.exec(stdout)?.[1];
    if (version === undefined) return failed('QEMU', 'does not say its version', INSTALL);
    return atLeast(version, OLDEST_QEMU)
      ? ok('QEMU', version)
      : failed('QEMU', version, `install QEMU ${OLDEST_QEMU.join('.')} or newer (Debian 12 has 7.2)`);
  } catch {
    return failed('QEMU', 'qemu-system-x86_64 is not installed', INSTALL);
  }
}

function checkProcessors(): Check {
  const n = cpus().length;
  return n >= 2
    ? ok('processors', String(n))
    : warning('processors', String(n), 'use a machine with 2 or more: the box and its supervisor share this one');
}

function checkMemory(memoryMib: number): Check {
  const total = Math.floor(totalmem() / MIB);
  return total >= memoryMib * 1.5
    ? ok('memory', `${total} MiB`)
    : warning('memory', `${total} MiB for a box of ${memoryMib} MiB and its snapshot`, 'choose less with --memory');
}

async function checkSharedMemory(memoryMib: number): Promise<Check> {
  const name = '/dev/shm';
  try {
    const { bavail, bsize } = await statfs(name);
    const free = Math.floor((bavail * bsize) / MIB);
    return free >= memoryMib
      ? ok(name, `${free} MiB free`)
      : failed(
          name,
          `${free} MiB free, the box needs ${memoryMib} MiB`,
          `choose a smaller box with --memory, or: sudo mount -o remount,size=${memoryMib * 2}M /dev/shm`,
        );
  } catch {
    return failed(name, 'does not exist', 'mount a tmpfs there: sudo mount -t tmpfs tmpfs /dev/shm');
  }
}

async function checkCache(folder: string): Promise<Check> {
  const name = 'cache folder';
  try {
    const existing = await nearestExisting(folder);
    await access(existing, constants.W_OK);
    const { bavail, bsize } = await statfs(existing);
    const free = Math.floor((bavail * bsize) / MIB);
    return free >= CACHE_MIB
      ? ok(name, `${folder}, ${free} MiB free`)
      : warning(name, `${folder}, ${free} MiB free`, `free some space there: a box takes about ${CACHE_MIB} MiB`);
  } catch {
    return failed(name, `${folder} cannot be written`, 'make it writable, or set NINELIVES_CACHE to a folder that is');
  }
}

async function nearestExisting(folder: string): Promise<string> {
  try {
    await stat(folder);
    return folder;
  } catch (error) {
    if (dirname(folder) === folder) throw error;
    return nearestExisting(dirname(folder));
  }
}

function checkProfiles(folder: string | undefined): Check {
  const versions = knownProfiles(folder).map((profile) => profile.version);
  return versions.length > 0
    ? ok('profiles', `Xen ${versions.join(', ')}`)
    : failed('profiles', `none in ${folder ?? 'this installation'}`, 'make one with "ninelives profile make"');
}

/** AppVMs in hardware virtualisation need nested SVM; in software emulation QEMU has that itself. */
async function checkKvm(): Promise<Check> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return ok('KVM', 'not available; boxes run in software emulation');
  }
  const nested = await readFile('/sys/module/kvm_amd/parameters/nested', 'utf8').catch(() => '');
  return /^[1Y]/.test(nested)
    ? ok('KVM', 'available, with nested SVM: --accel kvm can be tried')
    : ok('KVM', 'available, but without nested SVM; boxes run in software emulation');
}
