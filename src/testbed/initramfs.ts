/** The contents of dom0's initramfs, and of the guests' in it. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ECHO_PORT } from './net/addresses.js';
import { echoProgram } from './net/echo-program.js';
import type { PackageSet } from './packages.js';
import { firstOf, kernelModules, libraries, type Part, program, text } from './parts.js';
import { guestFolder } from './paths.js';
import { type BoxSpec, type GuestWork, SPARE } from './spec.js';
import { unikernel } from './unikernel/program.js';
import { guestConfig, newVmConfig } from './vm-config.js';
import { workBlock } from './work-block.js';
import { dom0ModulesFor, WORKS } from './works.js';

/** Steps of work between two lines on a VM's console. */
const CONSOLE_EVERY = 50;

/** Rest of the new VM between two steps, in milliseconds. */
const SPARE_REST_MS = 50;

/** Of the toolstack, in the order in which they can be loaded. */
const MODULES = ['xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xen-privcmd', 'xenfs'] as const;

const XEN_PROGRAMS = ['xl', 'xenstored', 'xenconsoled', 'xen-init-dom0'] as const;
const XENSTORE_PROGRAMS = ['xenstore-read', 'xenstore-write', 'xenstore-ls'] as const;
const LIBRARIES =
  /^(libxen\w*|libxl\w*|libyajl|libuuid|libz|liblzma|libzstd|libgcc_s|libc|libm|libpthread|libdl|librt|libutil|ld-linux-x86-64)\.so/;

/**
 * @param magic what the VMs' reports begin with
 * @param kernel path of the unpacked Linux
 * @throws NL_PACKAGE_MISSING
 */
export function dom0Parts(packages: PackageSet, spec: BoxSpec, magic: string, kernel: string): Part[] {
  const { root } = packages;
  const xenBin = 'usr/lib/xen-4.17/bin';
  const modules = [...MODULES, ...dom0ModulesFor(spec)];
  const spare = unikernel({ name: SPARE.name, magic, restMs: SPARE_REST_MS, work: spec.newVm });
  const works = new Set(spec.guests.map((guest) => guest.work));
  return [
    ...common(root, magic, modules, [`DOM0_PACE=${spec.dom0.work}`]),
    script('init', 'dom0-init.sh'),
    script('etc/ninelives/agent.sh', 'agent.sh'),
    script('etc/ninelives/work-files.sh', 'work-files.sh'),
    script('etc/xen/scripts/block', 'hotplug-block.sh'),
    text('etc/xen/xl.conf', 'autoballoon=0\n'),
    { kind: 'folder', path: 'var/lib/xen' },
    ...(works.has('netbench')
      ? [script('etc/ninelives/dom0-net.sh', 'dom0-net.sh'), script('etc/xen/scripts/vif-bridge', 'hotplug-vif.sh')]
      : []),
    ...XEN_PROGRAMS.map((name) => program(`${xenBin}/${name}`, join(root, xenBin, name))),
    ...XENSTORE_PROGRAMS.map((name) => program(`bin/${name}`, join(root, 'usr/bin', name))),
    ...libraries(root, LIBRARIES),
    ...kernelModules(root, modules),
    { kind: 'copy', path: 'boot/linux', from: kernel },
    ...[...works].map(
      (work): Part => ({ kind: 'archive', path: `boot/guest-${work}.cpio`, parts: guestParts(root, magic, work) }),
    ),
    { kind: 'file', path: 'boot/unikernel', data: spare },
    ...spec.guests.map((vm) => text(`etc/ninelives/vms/${vm.name}.cfg`, guestConfig(vm, spec))),
    text(`etc/ninelives/spare/${SPARE.name}.cfg`, newVmConfig(spec)),
  ];
}

function guestParts(root: string, magic: string, work: GuestWork): Part[] {
  const needs = WORKS[work];
  return [
    ...common(root, magic, needs.guestModules, []),
    script('init', 'guest-init.sh'),
    script(`etc/ninelives/work-${work}.sh`, `work-${work}.sh`),
    ...(work === 'netbench' ? netBenchParts() : []),
    ...needs.programs.map((path) => program(path, join(root, path))),
    ...(needs.libraries === undefined ? [] : libraries(root, needs.libraries)),
    ...kernelModules(root, needs.guestModules),
  ];
}

/** The ordinary work, which NetBench's VM does too, and the program that answers the pings. */
const netBenchParts = (): Part[] => [
  script('etc/ninelives/work-files.sh', 'work-files.sh'),
  { kind: 'file', path: 'bin/udp-echo', data: echoProgram(ECHO_PORT), executable: true },
];

/** What dom0 and the guests have in common. */
function common(root: string, magic: string, modules: readonly string[], settings: readonly string[]): Part[] {
  const busybox = firstOf(join(root, 'bin/busybox'), join(root, 'usr/bin/busybox'));
  const all = [
    `MAGIC=${magic}`,
    `CONSOLE_EVERY=${CONSOLE_EVERY}`,
    `BUSYBOX_SHA256=${createHash('sha256').update(readFileSync(busybox)).digest('hex')}`,
    `MODULES="${modules.join(' ')}"`,
    ...settings,
  ];
  return [
    program('bin/busybox', busybox),
    script('etc/ninelives/report.sh', 'report.sh'),
    text('etc/ninelives/block', `${workBlock()}\n`),
    text('etc/ninelives/box.conf', `${all.join('\n')}\n`),
  ];
}

const script = (path: string, name: string): Part => ({
  kind: 'file',
  path,
  data: readFileSync(join(guestFolder(), name)),
  executable: true,
});
