/**
 * The files a box boots from: Xen, Linux, and one initramfs for dom0 that carries the guests' kernel, initramfs and
 * configurations. Named by a hash of all that goes into them, so they are built again exactly when something changes.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { NinelivesError } from '../common/errors.js';
import type { Progress } from '../common/progress.js';
import { type CpioEntry, writeCpio } from './cpio.js';
import { unpackKernel } from './kernel.js';
import type { PackageSet } from './packages.js';
import { guestFolder, ownVersion } from './paths.js';
import { type BoxSpec, type GuestSpec, SPARE } from './spec.js';
import { unikernel } from './unikernel/program.js';
import { workBlock } from './work-block.js';

/** Steps of work between two lines on a VM's console. */
const CONSOLE_EVERY = 50;

/** Rest of the new VM between two steps, in milliseconds. */
const SPARE_REST_MS = 50;

/** In the order in which they can be loaded. */
const MODULES = ['xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xen-privcmd', 'xenfs'] as const;
/** For VMs with a disk: disks in dom0's memory, and the backend. */
const DISK_MODULES = ['brd', 'xen-blkback'] as const;
/** Of the new VM. */
const DISK = 'disk=["phy:/dev/ram0,xvda,w"]';

const XEN_PROGRAMS = ['xl', 'xenstored', 'xenconsoled', 'xen-init-dom0'] as const;
const XENSTORE_PROGRAMS = ['xenstore-read', 'xenstore-write', 'xenstore-ls'] as const;
const LIBRARIES =
  /^(libxen\w*|libxl\w*|libyajl|libuuid|libz|liblzma|libzstd|libgcc_s|libc|libm|libpthread|libdl|librt|libutil|ld-linux-x86-64)\.so/;

/**
 * Options of the guests' kernels. The last three spare seconds of a boot on an emulated CPU: self-tests of ciphers, patching
 * out lock prefixes, and a scan of all page tables for writable code.
 */
const GUEST_KERNEL = 'console=hvc0 quiet loglevel=3 mitigations=off cryptomgr.notests noreplace-smp rodata=off';

/** What a box boots from. Paths of files. */
export interface BoxFiles {
  readonly xen: string;
  /** Symbols of the same Xen, static ones too, without types. */
  readonly xenSymbols: string;
  readonly xenVersion: string;
  readonly kernel: string;
  readonly initramfs: string;
  /** Of everything above and of ninelives' version: a snapshot is good for this hash only. */
  readonly hash: string;
  /** What the VMs' reports begin with; see `reports.ts`. 32 letters and digits. */
  readonly magic: string;
}

/** Builds what is missing. @throws NL_ELF_INVALID, NL_PACKAGE_MISSING, the signal's reason */
export async function buildImages(
  packages: PackageSet,
  spec: BoxSpec,
  cache: string,
  progress: Progress,
  signal?: AbortSignal,
): Promise<BoxFiles> {
  const scripts = readScripts();
  const hash = hashOf(packages, spec, scripts);
  const magic = `NL${createHash('sha256').update(`magic ${hash}`).digest('hex').slice(0, 30)}`;
  const folder = join(cache, 'images');
  mkdirSync(folder, { recursive: true });
  const xen = join(folder, `xen-${packages.xenVersion}`);
  const kernel = join(folder, `linux-${packages.versions[packages.kernelPackage] ?? 'unknown'}`);
  const initramfs = join(folder, `dom0-${hash.slice(0, 16)}.cpio`);

  if (![xen, kernel, initramfs].every(existsSync)) progress.step('building the images');
  if (!existsSync(xen)) place(xen, gunzipSync(readFileSync(theOne(join(packages.root, 'boot'), /^xen-.*\.gz$/))));
  if (!existsSync(kernel)) {
    progress.detail('unpacking Linux');
    place(kernel, await unpackKernel(readFileSync(theOne(join(packages.root, 'boot'), /^vmlinuz-/)), signal));
  }
  if (!existsSync(initramfs)) {
    progress.detail('initramfs');
    place(initramfs, dom0Image(packages, spec, scripts, magic, readFileSync(kernel)));
  }
  const xenSymbols = theOne(join(packages.root, 'usr/lib/debug/boot'), /^xen-syms-[^.]*[.]\d+-amd64$/);
  return { xen, xenSymbols, xenVersion: packages.xenVersion, kernel, initramfs, hash, magic };
}

const SCRIPTS = ['dom0-init.sh', 'guest-init.sh', 'work.sh', 'agent.sh', 'hotplug-block.sh'] as const;
type Scripts = Readonly<Record<(typeof SCRIPTS)[number], Buffer>>;

const readScripts = (): Scripts =>
  Object.fromEntries(SCRIPTS.map((name) => [name, readFileSync(join(guestFolder(), name))])) as Record<
    (typeof SCRIPTS)[number],
    Buffer
  >;

function hashOf(packages: PackageSet, spec: BoxSpec, scripts: Scripts): string {
  const hash = createHash('sha256');
  const versions = Object.entries(packages.versions).sort();
  const { guests, newVm, pinning, cpus } = spec;
  const texts = SCRIPTS.map((name) => scripts[name].toString('latin1'));
  const constants = [GUEST_KERNEL, CONSOLE_EVERY, MODULES, XEN_PROGRAMS, SPARE, workBlock(), spareKernel(spec, '')];
  hash.update(JSON.stringify([ownVersion(), versions, guests, newVm, pinning, cpus, texts, constants]));
  return hash.digest('hex');
}

const spareKernel = ({ newVm }: BoxSpec, magic: string): string =>
  unikernel({ name: SPARE.name, magic: magic.padEnd(32, '-'), restMs: SPARE_REST_MS, work: newVm }).toString('latin1');

/** A file appears complete or not at all. */
function place(path: string, data: Uint8Array): void {
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, data);
  renameSync(draft, path);
}

function dom0Image(
  packages: PackageSet,
  spec: BoxSpec,
  scripts: Scripts,
  magic: string,
  kernel: Uint8Array,
): Uint8Array {
  const busybox = readFileSync(firstOf(join(packages.root, 'bin/busybox'), join(packages.root, 'usr/bin/busybox')));
  const program = (path: string, data: Uint8Array): CpioEntry => ({ kind: 'file', path, data, executable: true });
  const text = (path: string, data: string): CpioEntry => ({ kind: 'file', path, data: Buffer.from(data) });
  const copied = (path: string, from: string): CpioEntry => program(path, readFileSync(from));

  const withDisk = spec.newVm === 'blkbench';
  const modules = [...MODULES, ...(withDisk ? DISK_MODULES : [])];
  const settings = [
    `MAGIC=${magic}`,
    `CONSOLE_EVERY=${CONSOLE_EVERY}`,
    `BUSYBOX_SHA256=${createHash('sha256').update(busybox).digest('hex')}`,
    `MODULES="${modules.join(' ')}"`,
  ];
  const common: CpioEntry[] = [
    program('bin/busybox', busybox),
    { kind: 'file', path: 'etc/ninelives/work.sh', data: scripts['work.sh'] },
    text('etc/ninelives/block', `${workBlock()}\n`),
    text('etc/ninelives/box.conf', `${settings.join('\n')}\n`),
  ];
  const guest = writeCpio([...common, program('init', scripts['guest-init.sh'])]);

  const xenBin = 'usr/lib/xen-4.17/bin';
  const kernelVersion = packages.kernelPackage.replace('linux-image-', '');
  const drivers = join(packages.root, 'lib/modules', kernelVersion, 'kernel/drivers');
  const module = (name: string): CpioEntry => {
    const file = `${name}.ko`;
    const places = ['xen', join('xen', name), 'block', join('block', name)];
    return copied(`lib/modules/${file}`, firstOf(...places.map((place) => join(drivers, place, file))));
  };
  return writeCpio([
    ...common,
    program('init', scripts['dom0-init.sh']),
    { kind: 'file', path: 'etc/ninelives/agent.sh', data: scripts['agent.sh'] },
    program('etc/xen/scripts/block', scripts['hotplug-block.sh']),
    text('etc/xen/xl.conf', 'autoballoon=0\n'),
    { kind: 'folder', path: 'var/lib/xen' },
    ...XEN_PROGRAMS.map((name) => copied(`${xenBin}/${name}`, join(packages.root, xenBin, name))),
    ...XENSTORE_PROGRAMS.map((name) => copied(`bin/${name}`, join(packages.root, 'usr/bin', name))),
    ...libraries(packages.root),
    ...modules.map(module),
    { kind: 'file', path: 'boot/linux', data: kernel },
    { kind: 'file', path: 'boot/guest.cpio', data: guest },
    { kind: 'file', path: 'boot/unikernel', data: Buffer.from(spareKernel(spec, magic), 'latin1') },
    ...spec.guests.map((vm, i) => text(`etc/ninelives/vms/${vm.name}.cfg`, guestConfig(vm, cpuOf(spec, i)))),
    text(
      `etc/ninelives/spare/${SPARE.name}.cfg`,
      vmConfig(SPARE, ['kernel="/boot/unikernel"', ...(withDisk ? [DISK] : [])]),
    ),
  ]);
}

function libraries(root: string): CpioEntry[] {
  const folder = 'usr/lib/x86_64-linux-gnu';
  const files = ['lib/x86_64-linux-gnu', folder]
    .map((part) => join(root, part))
    .filter(existsSync)
    .flatMap((path) => readdirSync(path).map((name) => join(path, name)))
    .filter((path) => LIBRARIES.test(basename(path)) && existsSync(path) && statSync(path).isFile());
  return [
    ...files.map(
      (path): CpioEntry => ({
        kind: 'file',
        path: `${folder}/${basename(path)}`,
        data: readFileSync(path),
        executable: true,
      }),
    ),
    { kind: 'link', path: 'lib/x86_64-linux-gnu', target: '../usr/lib/x86_64-linux-gnu' },
    { kind: 'link', path: 'lib64/ld-linux-x86-64.so.2', target: '../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2' },
  ];
}

/** dom0 has the first CPUs when vCPUs are pinned; guests follow, around again where CPUs run out. */
function cpuOf(spec: BoxSpec, guest: number): number | undefined {
  return spec.pinning === 'none' ? undefined : (2 + guest) % spec.cpus;
}

/** The configuration for xl of a guest that runs Linux. */
export function guestConfig(guest: GuestSpec, cpu: number | undefined): string {
  return vmConfig(guest, [
    'kernel="/boot/linux"',
    'ramdisk="/boot/guest.cpio"',
    `cmdline="${GUEST_KERNEL} ninelives.name=${guest.name} ninelives.kind=${guest.kind}"`,
    ...(cpu === undefined ? [] : [`cpus="${cpu}"`]),
  ]);
}

/** Text in xl's own format (xl.cfg(5)). */
function vmConfig({ name, kind, memoryMiB }: GuestSpec, more: readonly string[]): string {
  const lines = [
    `name="${name}"`,
    `type="${kind}"`,
    `memory=${memoryMiB}`,
    'vcpus=1',
    // Xen takes an emulated CPU's clock for an unreliable one and would trap each RDTSC, some 100 for each process made.
    'tsc_mode="native"',
    // A guest that dies stays as it is, for inspection.
    'on_crash="preserve"',
    'on_reboot="preserve"',
    'on_poweroff="preserve"',
    ...more,
  ];
  return `${lines.join('\n')}\n`;
}

function theOne(folder: string, pattern: RegExp): string {
  const name = existsSync(folder) ? readdirSync(folder).find((entry) => pattern.test(entry)) : undefined;
  if (name === undefined)
    throw new NinelivesError('NL_PACKAGE_MISSING', `the unpacked packages have no ${pattern.source} in ${folder}`, {
      fix: 'remove the folder "packages" of the cache, so that they are fetched again',
    });
  return join(folder, name);
}

function firstOf(...paths: string[]): string {
  const found = paths.find(existsSync);
  if (found === undefined)
    throw new NinelivesError('NL_PACKAGE_MISSING', `the unpacked packages have no ${paths.join(' or ')}`, {
      fix: 'remove the folder "packages" of the cache, so that they are fetched again',
    });
  return found;
}
