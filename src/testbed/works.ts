/** What each work of an AppVM needs beside its script `guest/work-WORK.sh`, in the guest and in dom0. */
import { DOM0_NET_MODULES } from './net/files.js';
import type { BoxSpec, GuestWork } from './spec.js';

export interface WorkNeeds {
  /** Modules of the guest's kernel, in the order in which they can be loaded. */
  readonly guestModules: readonly string[];
  /** Modules of dom0's kernel, likewise. */
  readonly dom0Modules: readonly string[];
  /** Programs of the packages by their paths there. */
  readonly programs: readonly string[];
  /** Names of the shared libraries that the programs need. */
  readonly libraries?: RegExp;
  /** Whether the guest has a disk of its own (`/dev/xvda`) in dom0's memory. */
  readonly disk: boolean;
}

/** RAM disks (Debian's kernel makes 16 of 16 MiB, of which only what is written takes memory), and their driver for guests. */
const DISK_BACKEND = ['brd', 'xen-blkback'] as const;

export const WORKS: Readonly<Record<GuestWork, WorkNeeds>> = {
  files: { guestModules: [], dom0Modules: [], programs: [], disk: false },
  blkbench: {
    guestModules: ['crc16', 'crc32c_generic', 'mbcache', 'jbd2', 'ext4', 'xen-blkfront'],
    dom0Modules: DISK_BACKEND,
    programs: [],
    disk: true,
  },
  unixbench: {
    guestModules: [],
    dom0Modules: [],
    programs: ['usr/bin/stress-ng'],
    libraries:
      /^(ld-linux-x86-64|lib(c|m|pthread|EGL|GLESv2|GLdispatch|IPSec_MB|Judy|apparmor|bsd|md|crypt|gbm|drm|expat|wayland-server|ffi|xcb|xcb-randr|Xau|Xdmcp|jpeg|kmod|lzma|zstd|crypto|sctp|xxhash|z))\.so/,
    disk: false,
  },
  netbench: { guestModules: ['xen-netfront'], dom0Modules: DOM0_NET_MODULES, programs: [], disk: false },
};

/** Names of the VMs that have a disk, in the order of the RAM disks `/dev/ram0`, `/dev/ram1`, ... */
export function vmsWithDisk({ guests, newVm }: Pick<BoxSpec, 'guests' | 'newVm'>, newVmName: string): string[] {
  const names = guests.filter((guest) => WORKS[guest.work].disk).map((guest) => guest.name);
  return newVm === 'blkbench' ? [...names, newVmName] : names;
}

/** Modules that dom0 needs for its VMs, beside those of the toolstack. */
export function dom0ModulesFor({ guests, newVm }: Pick<BoxSpec, 'guests' | 'newVm'>): string[] {
  const all = [
    ...guests.flatMap((guest) => WORKS[guest.work].dom0Modules),
    ...(newVm === 'blkbench' ? DISK_BACKEND : []),
  ];
  return [...new Set(all)];
}
