/** Configurations of VMs for xl, as text in its own format (xl.cfg(5)). Pure. */
import { netKernelWords, vifLines } from './net/files.js';
import { type BoxSpec, firstCpuOf, type GuestSpec, SPARE } from './spec.js';
import { vmsWithDisk } from './works.js';

/**
 * Options of the guests' kernels. The last three spare seconds of a boot on an emulated CPU: self-tests of ciphers, patching
 * out lock prefixes, and a scan of all page tables for writable code.
 */
const GUEST_KERNEL = 'console=hvc0 quiet loglevel=3 mitigations=off cryptomgr.notests noreplace-smp rodata=off';

/** The configuration of a guest that runs Linux, with its work's initramfs. */
export function guestConfig(guest: GuestSpec, spec: BoxSpec): string {
  const { name, kind, work } = guest;
  return vmConfig(guest, spec, [
    'kernel="/boot/linux"',
    `ramdisk="/boot/guest-${work}.cpio"`,
    `cmdline="${GUEST_KERNEL} ninelives.name=${name} ninelives.kind=${kind} ninelives.work=${work}${netKernelWords(spec, name)}"`,
  ]);
}

/** The configuration of the VM that is created after a recovery: a unikernel. */
export const newVmConfig = (spec: BoxSpec): string => vmConfig(SPARE, spec, ['kernel="/boot/unikernel"']);

type VmShape = Pick<GuestSpec, 'name' | 'kind' | 'memoryMiB' | 'vcpus'>;

function vmConfig({ name, kind, memoryMiB, vcpus }: VmShape, spec: BoxSpec, more: readonly string[]): string {
  const firstCpu = firstCpuOf(spec, name);
  const disk = vmsWithDisk(spec, SPARE.name).indexOf(name);
  const lines = [
    `name="${name}"`,
    `type="${kind}"`,
    `memory=${memoryMiB}`,
    `vcpus=${vcpus}`,
    // A list pins each vCPU to the CPU that stands in its place.
    ...(firstCpu === undefined ? [] : [`cpus=[${list(vcpus, (i) => firstCpu + i)}]`]),
    // The hotplug script is `guest/hotplug-block.sh`.
    ...(disk < 0 ? [] : [`disk=["phy:/dev/ram${disk},xvda,w"]`]),
    ...vifLines(spec, name),
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

const list = (length: number, item: (i: number) => number): string =>
  Array.from({ length }, (_, i) => `"${item(i)}"`).join(', ');
