/** What a user can choose of a box. */
import { NinelivesError } from '../common/errors.js';

/** PV: Linux on Xen's paravirtual interface, in ring 3. PVH: Linux in hardware virtualisation without an emulated PC. */
export type GuestKind = 'pv' | 'pvh';

export interface GuestSpec {
  /** Lower-case letters and digits. */
  readonly name: string;
  readonly kind: GuestKind;
  /** 96..1024 */
  readonly memoryMiB: number;
}

/** What the VM does that is created after a recovery: `mix` computes only, `blkbench` writes and reads a disk of its own, too. */
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
  /** AppVMs that are created at boot, with one vCPU each. */
  readonly guests: readonly GuestSpec[];
  readonly newVm: NewVmWork;
  /** Whether vCPUs may run on any CPU (as Xen does by default) or each has one of its own. */
  readonly pinning: 'none' | 'one-cpu-each';
}

export const DEFAULT_GUESTS: readonly GuestSpec[] = [
  { name: 'app1', kind: 'pv', memoryMiB: 128 },
  { name: 'app2', kind: 'pvh', memoryMiB: 128 },
  { name: 'app3', kind: 'pv', memoryMiB: 128 },
];

export const DEFAULT_BOX: BoxSpec = {
  name: 'default',
  cpus: 4,
  memoryMiB: 2048,
  accel: 'tcg',
  guests: DEFAULT_GUESTS,
  newVm: 'mix',
  pinning: 'none',
};

/** PrivVM's. */
export const DOM0 = { vcpus: 2, memoryMiB: 512 } as const;
/**
 * Prepared but not created at boot: the "new VM" that a recovered hypervisor must still be able to create. A unikernel
 * (`unikernel/program.ts`), of the least memory that xl gives.
 */
export const SPARE: GuestSpec = { name: 'new1', kind: 'pv', memoryMiB: 4 };
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
  if (spec.guests.length === 0) refuse('a box without an AppVM shows nothing', 'give it at least one guest');
  const names = new Set<string>(['dom0', SPARE.name]);
  for (const guest of spec.guests) {
    if (!/^[a-z][a-z0-9]{0,15}$/.test(guest.name) || names.has(guest.name))
      refuse(`"${guest.name}" cannot be the name of a guest, or is used twice`, 'use lower-case letters and digits');
    names.add(guest.name);
    if (!whole(guest.memoryMiB, 96, 1024))
      refuse(`${guest.name} cannot have ${guest.memoryMiB} MiB`, 'choose 96 to 1024');
  }
  const needed = [...spec.guests, SPARE].reduce((sum, guest) => sum + guest.memoryMiB + 16, DOM0.memoryMiB + XEN_MIB);
  if (needed > spec.memoryMiB)
    refuse(`these guests need ${needed} MiB, the box has ${spec.memoryMiB}`, `choose at least ${needed} MiB of memory`);
}
