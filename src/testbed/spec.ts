/** What a user can choose of a box. */
import { NinelivesError } from '../common/errors.js';

/** PV: Linux on Xen's paravirtual interface, in ring 3. PVH: Linux in hardware virtualisation without an emulated PC. */
export type GuestKind = 'pv' | 'pvh';

/**
 * What an AppVM does (`guest/work-*.sh`). `files`: small files on tmpfs. `blkbench`: 1 MB files on a disk of its own, through
 * blkfront and blkback. `unixbench`: stress-ng on hypercalls and virtual memory. `netbench`: answers a sender outside the box.
 */
export type GuestWork = 'files' | 'blkbench' | 'unixbench' | 'netbench';

export interface GuestSpec {
  /** Lower-case letters and digits. */
  readonly name: string;
  readonly kind: GuestKind;
  /** 96..1024; at least 192 for `unixbench`, whose programs are large. */
  readonly memoryMiB: number;
  /** 1..8. Work goes on on all of them. */
  readonly vcpus: number;
  readonly work: GuestWork;
}

export interface Dom0Spec {
  /** 1..8 */
  readonly vcpus: number;
  /** 256..4096 */
  readonly memoryMiB: number;
  /** How often dom0's own work, its sign of life, takes a step: `busy` as an AppVM does, `light` a few times a second. */
  readonly work: 'busy' | 'light';
}

/** What the VM does that is created after a recovery: `mix` computes only, `blkbench` writes and reads a disk of its own. */
export type NewVmWork = 'mix' | 'blkbench';

export interface BoxSpec {
  /** Boxes of different names have snapshots of their own. */
  readonly name: string;
  /** 1..16 */
  readonly cpus: number;
  /** 1024..16384 */
  readonly memoryMiB: number;
  readonly accel: 'tcg' | 'kvm';
  /** Start of Debian's version of Xen, such as "4.17.5"; apt's candidate when absent. */
  readonly xenVersion?: string;
  readonly dom0: Dom0Spec;
  /** AppVMs that are created at boot. */
  readonly guests: readonly GuestSpec[];
  readonly newVm: NewVmWork;
  /**
   * What the box's clock follows. `host`: time on the host, its CPUs run in parallel. `instructions`: the number of instructions
   * executed, its CPUs take turns on one thread, and idle time is skipped (QEMU's `-icount`): the same box does the same again.
   */
  readonly clock: 'host' | 'instructions';
  /** Whether vCPUs may run on any CPU (as Xen does by default) or each has one of its own, dom0's first. */
  readonly pinning: 'none' | 'one-cpu-each';
}

export const DEFAULT_GUESTS: readonly GuestSpec[] = [
  { name: 'app1', kind: 'pv', memoryMiB: 128, vcpus: 1, work: 'files' },
  { name: 'app2', kind: 'pvh', memoryMiB: 128, vcpus: 1, work: 'files' },
  { name: 'app3', kind: 'pv', memoryMiB: 128, vcpus: 1, work: 'files' },
];

/** PrivVM's. */
export const DEFAULT_DOM0: Dom0Spec = { vcpus: 2, memoryMiB: 512, work: 'busy' };

export const DEFAULT_BOX: BoxSpec = {
  name: 'default',
  cpus: 4,
  memoryMiB: 2048,
  accel: 'tcg',
  dom0: DEFAULT_DOM0,
  guests: DEFAULT_GUESTS,
  newVm: 'mix',
  clock: 'host',
  pinning: 'none',
};

/**
 * Prepared but not created at boot: the "new VM" that a recovered hypervisor must still be able to create. A unikernel
 * (`unikernel/program.ts`), of the least memory that xl gives.
 */
export const SPARE = { name: 'new1', kind: 'pv', memoryMiB: 4, vcpus: 1 } as const;
/** What Xen and the boot modules take beside the VMs. */
const XEN_MIB = 256;

/** @throws NL_USAGE */
export function checkBoxSpec(spec: BoxSpec): void {
  const refuse = (what: string, fix: string): never => {
    throw new NinelivesError('NL_USAGE', what, { fix });
  };
  const whole = (value: number, low: number, high: number): boolean =>
    Number.isInteger(value) && value >= low && value <= high;
  if (!/^[a-z0-9][a-z0-9-]{0,30}$/.test(spec.name))
    refuse(`"${spec.name}" is not a name for a box`, 'use lower-case letters, digits and "-"');
  if (!whole(spec.cpus, 1, 16)) refuse(`a box cannot have ${spec.cpus} CPUs`, 'choose 1 to 16');
  if (!whole(spec.memoryMiB, 1024, 16384)) refuse(`a box cannot have ${spec.memoryMiB} MiB`, 'choose 1 to 16 GiB');
  const { dom0 } = spec;
  if (!whole(dom0.vcpus, 1, 8)) refuse(`dom0 cannot have ${dom0.vcpus} vCPUs`, 'choose 1 to 8');
  if (!whole(dom0.memoryMiB, 256, 4096)) refuse(`dom0 cannot have ${dom0.memoryMiB} MiB`, 'choose 256 to 4096');
  if (spec.clock === 'instructions' && spec.accel !== 'tcg')
    refuse('only an emulated box can have a clock that follows instructions', 'choose the clock "host"');
  if (spec.clock === 'instructions' && spec.guests.some(({ work }) => work === 'netbench'))
    refuse(
      'a sender outside the box keeps the host\'s time, the clock "instructions" does not',
      'choose a setup without NetBench, or the clock "host"',
    );
  if (spec.guests.length === 0) refuse('a box without an AppVM shows nothing', 'give it at least one guest');
  const names = new Set<string>(['dom0', SPARE.name]);
  for (const guest of spec.guests) {
    if (!/^[a-z][a-z0-9]{0,15}$/.test(guest.name) || names.has(guest.name))
      refuse(`"${guest.name}" cannot be the name of a guest, or is used twice`, 'use lower-case letters and digits');
    names.add(guest.name);
    const least = guest.work === 'unixbench' ? 192 : 96;
    if (!whole(guest.memoryMiB, least, 1024))
      refuse(`${guest.name} cannot have ${guest.memoryMiB} MiB`, `choose ${least} to 1024`);
    if (!whole(guest.vcpus, 1, 8)) refuse(`${guest.name} cannot have ${guest.vcpus} vCPUs`, 'choose 1 to 8');
  }
  const vcpus = [...spec.guests, SPARE].reduce((sum, guest) => sum + guest.vcpus, dom0.vcpus);
  if (spec.pinning === 'one-cpu-each' && vcpus > spec.cpus)
    refuse(
      `${vcpus} vCPUs, the new VM's among them, cannot have one of ${spec.cpus} CPUs each`,
      `choose at least ${vcpus} CPUs`,
    );
  const needed = [...spec.guests, SPARE].reduce((sum, guest) => sum + guest.memoryMiB + 16, dom0.memoryMiB + XEN_MIB);
  if (needed > spec.memoryMiB)
    refuse(`these guests need ${needed} MiB, the box has ${spec.memoryMiB}`, `choose at least ${needed} MiB of memory`);
}

/** The first CPU of a VM whose vCPUs are pinned, one CPU each: behind dom0's come the guests', then the new VM's. */
export function firstCpuOf(spec: BoxSpec, name: string): number | undefined {
  if (spec.pinning === 'none') return undefined;
  let cpu = spec.dom0.vcpus;
  for (const guest of spec.guests) {
    if (guest.name === name) break;
    cpu += guest.vcpus;
  }
  return cpu;
}
