/**
 * Debian's packages: what the box is made of is downloaded and unpacked into the cache folder (no root needed, nothing is
 * installed), what runs on this machine itself (QEMU) is installed.
 *
 * Downloads are made by apt, which checks their signatures and hashes. What is unpacked once needs no network again.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import type { Progress } from '../common/progress.js';
import { type Ran, run } from './run.js';

/** Built from Xen's source package: these are taken in the version of the hypervisor. */
const OF_XEN = [
  'xen-hypervisor-4.17-amd64',
  'xen-hypervisor-4.17-amd64-dbg',
  'xen-utils-4.17',
  'xenstore-utils',
  'libxencall1',
  'libxendevicemodel1',
  'libxenevtchn1',
  'libxenforeignmemory1',
  'libxengnttab1',
  'libxenhypfs1',
  'libxenmisc4.17',
  'libxenstore4',
  'libxentoolcore1',
  'libxentoollog1',
] as const;

const OTHERS = [
  'busybox-static',
  'libc6',
  'libgcc-s1',
  'liblzma5',
  'libuuid1',
  'libyajl2',
  'libzstd1',
  'zlib1g',
  // The UnixBench-like load and the libraries that it is linked with, whether it uses them or not.
  'stress-ng',
  'libapparmor1',
  'libbsd0',
  'libcrypt1',
  'libdrm2',
  'libegl1',
  'libexpat1',
  'libffi8',
  'libgbm1',
  'libgles2',
  'libglvnd0',
  'libipsec-mb1',
  'libjpeg62-turbo',
  'libjudydebian1',
  'libkmod2',
  'libmd0',
  'libsctp1',
  'libssl3',
  'libwayland-server0',
  'libx11-6',
  'libxau6',
  'libxcb-randr0',
  'libxcb1',
  'libxdmcp6',
  'libxxhash0',
] as const;
const HYPERVISOR = OF_XEN[0];
const KERNEL_META = 'linux-image-amd64';

/** Of what is unpacked. 3: the guests' disks and networks, and the UnixBench-like load. */
const FORMAT = 3;

const recordSchema = z.object({
  format: z.literal(FORMAT),
  xenVersion: z.string(),
  kernelPackage: z.string(),
  versions: z.record(z.string(), z.string()),
});

/** Unpacked packages. */
export interface PackageSet {
  /** Root of the unpacked tree. */
  readonly root: string;
  /** Debian's version of Xen, such as "4.17.7+13-g2445b30a44-0+deb12u1". */
  readonly xenVersion: string;
  /** Such as "linux-image-6.1.0-56-amd64". */
  readonly kernelPackage: string;
  /** Version by package. */
  readonly versions: Readonly<Record<string, string>>;
}

export interface PackageOptions {
  readonly cache: string;
  /** Start of a version of Xen ("4.17.5"); apt's candidate when absent. */
  readonly xenVersion?: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The box's packages, from the cache or from Debian's archive.
 * @throws NL_PACKAGE_MISSING when they are neither cached nor to be had, NL_NO_SPACE, the signal's reason
 */
export async function fetchPackages(options: PackageOptions, progress: Progress): Promise<PackageSet> {
  const wanted = options.xenVersion ?? 'candidate';
  if (!/^[\w.+:~-]+$/.test(wanted))
    throw new NinelivesError('NL_USAGE', `"${wanted}" is not a version of Xen`, { fix: 'give one such as 4.17.5' });
  const folder = join(options.cache, 'packages', wanted);
  const cached = readRecord(folder);
  if (cached) return cached;

  progress.step("getting Debian's packages");
  const draft = `${folder}.${process.pid}.tmp`;
  try {
    await download(wanted, draft, progress, options.signal);
    rmSync(folder, { recursive: true, force: true });
    renameSync(draft, folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOSPC')
      throw new NinelivesError('NL_NO_SPACE', `no space for packages in ${options.cache}`, { cause: error });
    throw error;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  const fresh = readRecord(folder);
  if (!fresh) throw new NinelivesError('NL_INTERNAL', `the packages in ${folder} are not complete`);
  return fresh;
}

const recordIn = (folder: string): string => join(folder, 'packages.json');

function readRecord(folder: string): PackageSet | undefined {
  if (!existsSync(recordIn(folder))) return undefined;
  try {
    const { xenVersion, kernelPackage, versions } = recordSchema.parse(
      JSON.parse(readFileSync(recordIn(folder), 'utf8')),
    );
    return { root: join(folder, 'root'), xenVersion, kernelPackage, versions };
  } catch {
    return undefined; // Damaged or of another format: fetched anew.
  }
}

async function download(
  wanted: string,
  draft: string,
  progress: Progress,
  signal: AbortSignal | undefined,
): Promise<void> {
  const root = join(draft, 'root');
  mkdirSync(root, { recursive: true });
  let choice = await choose(wanted, signal);
  let failure = choice && (await downloadDebs(choice.specs, draft, progress, signal));
  if (!choice || failure !== undefined) {
    // No lists yet, or lists so old that the archive has dropped what they name.
    progress.detail('updating the package lists');
    const updated = await asRoot('apt-get', ['update'], signal);
    choice = await choose(wanted, signal);
    if (!choice)
      throw missing(
        `Debian's package lists have no ${HYPERVISOR} ${wanted === 'candidate' ? '' : wanted}`.trim(),
        updated,
      );
    failure = await downloadDebs(choice.specs, draft, progress, signal);
    if (failure !== undefined)
      throw missing(`the packages of the box cannot be downloaded: ${failure}`, updated, choice.specs);
  }

  const versions: Record<string, string> = {};
  const debs = readdirSync(draft).filter((name) => name.endsWith('.deb'));
  for (const [i, deb] of debs.entries()) {
    progress.detail(`unpacking ${i + 1} of ${debs.length}`);
    const unpacked = await unpack(join(draft, deb), root, deb.startsWith(choice.kernelPackage), signal);
    if (unpacked.status !== 0) throw missing(`${deb} cannot be unpacked: ${unpacked.stderr.trim()}`, undefined);
    const [name = deb, version = ''] = deb.split('_');
    versions[name] = decodeURIComponent(version);
    rmSync(join(draft, deb));
  }
  const record = { format: FORMAT, xenVersion: choice.xenVersion, kernelPackage: choice.kernelPackage, versions };
  writeFileSync(recordIn(draft), `${JSON.stringify(record, null, 2)}\n`);
}

interface Choice {
  readonly xenVersion: string;
  readonly kernelPackage: string;
  /** What to ask apt for: `name` or `name=version`. */
  readonly specs: readonly string[];
}

/** `undefined` when the package lists do not have it. */
async function choose(wanted: string, signal: AbortSignal | undefined): Promise<Choice | undefined> {
  const madison = (await run('apt-cache', ['madison', HYPERVISOR], { signal })).stdout;
  const xenVersion = pickVersion(madison, wanted);
  const kernelPackage = kernelOf((await run('apt-cache', ['depends', KERNEL_META], { signal })).stdout);
  if (xenVersion === undefined || kernelPackage === undefined) return undefined;
  const specs = [...OF_XEN.map((name) => `${name}=${xenVersion}`), ...OTHERS, kernelPackage];
  return { xenVersion, kernelPackage, specs };
}

/** The first version in the output of `apt-cache madison` (best first) that starts like the wanted one. */
export function pickVersion(madison: string, wanted: string): string | undefined {
  const versions = madison.split('\n').flatMap((line) => line.split('|')[1]?.trim() ?? []);
  return versions.find((version) => version !== '' && (wanted === 'candidate' || startsAs(version, wanted)));
}

/** "4.17.5" means 4.17.5+72, but not 4.17.50. */
function startsAs(version: string, wanted: string): boolean {
  return version.startsWith(wanted) && !/^\d/.test(version.slice(wanted.length));
}

/** The kernel that the meta package stands for, from the output of `apt-cache depends`. */
export function kernelOf(depends: string): string | undefined {
  return /Depends: (linux-image-\d\S*-amd64)/.exec(depends)?.[1];
}

/** Folders and files of modules: Xen's own drivers; disks and a file system for them; a network card, and a bridge. */
const KERNEL_MODULES = [
  'drivers/xen',
  ...['drivers/block/brd.ko', 'drivers/block/xen-blkback', 'drivers/block/xen-blkfront.ko'],
  ...['crypto/crc32c_generic.ko', 'lib/crc16.ko', 'fs/mbcache.ko', 'fs/jbd2', 'fs/ext4'],
  ...['drivers/net/xen-netback', 'drivers/net/xen-netfront.ko', 'drivers/net/ethernet/intel/e1000'],
  ...['drivers/net/virtio_net.ko', 'drivers/net/net_failover.ko', 'net/core/failover.ko', 'drivers/virtio'],
  ...['net/802/stp.ko', 'net/llc/llc.ko', 'net/bridge/bridge.ko'],
] as const;

/** Of the kernel package only what a box needs: all its modules would be 400 MB. */
function unpack(deb: string, root: string, isKernel: boolean, signal: AbortSignal | undefined): Promise<Ran> {
  if (!isKernel) return run('dpkg-deb', ['-x', deb, root], { signal });
  const modules = KERNEL_MODULES.map((path) => `'./lib/modules/*/kernel/${path}'`).join(' ');
  const parts = `./boot ${modules} ./usr/share/doc`;
  const script = `dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards ${parts}`;
  return run('sh', ['-c', script, 'sh', deb, root], { signal });
}

/**
 * One call of apt for all of them: reading its lists takes it seconds.
 * @returns why not, or `undefined` when all files are there.
 */
async function downloadDebs(
  specs: readonly string[],
  folder: string,
  progress: Progress,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  progress.detail(`${specs.length} packages`);
  // apt's sandbox user cannot write to a private folder; as root it would warn about that each time.
  const args = ['-q', '-o', 'APT::Sandbox::User=root', 'download', ...specs];
  const onLine = (line: string): void => {
    const [, count, name] = /^Get:(\d+) \S+ \S+ \S+ (\S+)/.exec(line) ?? [];
    if (count !== undefined) progress.detail(`${count} of ${specs.length}: ${name}`);
  };
  const got = await run('apt-get', args, { cwd: folder, onLine, signal });
  return got.status === 0 ? undefined : lastLine(got.stderr) || `apt-get download ended with status ${got.status}`;
}

/** Programs of this machine that we need, and Debian's packages of them. */
const PROGRAMS = {
  'qemu-system-x86_64': 'qemu-system-x86',
  xz: 'xz-utils',
  setpriv: 'util-linux',
} as const;

/** What only our own tests need: a browser that looks at the report. */
export const TEST_PROGRAMS = { chromium: 'chromium' } as const;

/** Debian's package by program. */
type Programs = Readonly<Record<string, string>>;

/**
 * Sees to it that the programs which the box needs on this machine are there, and installs what is missing where we are root or may
 * use sudo without a password.
 * @throws NL_PACKAGE_MISSING with the command to run by hand, the signal's reason
 */
export async function installPrograms(
  progress: Progress,
  signal?: AbortSignal,
  programs: Programs = PROGRAMS,
): Promise<void> {
  const lacking = lackingPackages(undefined, programs);
  if (lacking.length === 0) return;
  progress.step(`installing ${lacking.join(' and ')}`);
  const args = ['install', '-y', '-q', '--no-install-recommends', ...lacking];
  let result = await asRoot('apt-get', args, signal);
  if (result.kind === 'failed') {
    await asRoot('apt-get', ['update'], signal);
    result = await asRoot('apt-get', args, signal);
  }
  if (lackingPackages(undefined, programs).length > 0)
    throw missing(`${lacking.join(', ')} is not installed`, result, lacking);
}

/** Packages of the programs that are not found in PATH. */
export function lackingPackages(path: string = process.env.PATH ?? '', programs: Programs = PROGRAMS): string[] {
  const folders = path.split(delimiter);
  return Object.entries(programs).flatMap(([program, name]) =>
    folders.some((folder) => existsSync(join(folder, program))) ? [] : [name],
  );
}

type RootRun =
  | { readonly kind: 'done' }
  | { readonly kind: 'no-root' }
  | { readonly kind: 'failed'; readonly why: string };

async function asRoot(command: string, args: readonly string[], signal: AbortSignal | undefined): Promise<RootRun> {
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const isRoot = process.getuid?.() === 0;
  if (!isRoot && (await run('sudo', ['-n', 'true'])).status !== 0) return { kind: 'no-root' };
  const ran = isRoot
    ? await run(command, args, { env, signal })
    : await run('sudo', ['-n', command, ...args], { env, signal });
  return ran.status === 0 ? { kind: 'done' } : { kind: 'failed', why: lastLine(ran.stderr) };
}

function missing(what: string, tried: RootRun | undefined, specs: readonly string[] = []): NinelivesError {
  const because =
    tried?.kind === 'failed' ? ` (apt-get: ${tried.why})` : tried?.kind === 'no-root' ? ' (not root, and no sudo)' : '';
  const names = specs.map((spec) => spec.split('=')[0]);
  const isHost = names.some(
    (name) => name?.startsWith('qemu') || name === 'xz-utils' || name === 'util-linux' || name === 'chromium',
  );
  const fix = isHost
    ? `run: sudo apt-get update && sudo apt-get install --no-install-recommends ${names.join(' ')}`
    : `run "sudo apt-get update" with Debian 12's main and security archives enabled and a working network${
        names.length > 0 ? `; needed are ${names.join(' ')}` : ''
      }`;
  return new NinelivesError('NL_PACKAGE_MISSING', `${what}${because}`, { fix });
}

const lastLine = (text: string): string => text.trim().split('\n').at(-1) ?? '';
