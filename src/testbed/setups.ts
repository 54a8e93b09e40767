/** Boxes that experiments are made on, by name: those of the papers, and two of our own. */
import { type BoxSpec, DEFAULT_BOX, type Dom0Spec, type GuestKind, type GuestSpec, type GuestWork } from './spec.js';

export const SETUP_NAMES = ['default', '1appvm-blkbench', '1appvm-unixbench', '3appvm', 'crowded'] as const;
export type SetupName = (typeof SETUP_NAMES)[number];

export interface SetupOptions {
  /** Kind of the AppVMs; `mixed`: PV and PVH take turns. Default `pv` as published, `mixed` for `default` and `crowded`. */
  readonly guests?: GuestKind | 'mixed';
  /** Default 8 as published, 4 for `default`, 2 for `crowded`. */
  readonly cpus?: number;
  /** Default 8192 as published, 2048 for `default` and `crowded`. */
  readonly memoryMiB?: number;
  /** Default `host`. */
  readonly clock?: BoxSpec['clock'];
}

/**
 * The machine of NiLiHype's evaluation: dom0 and each AppVM have one vCPU, each on a CPU of its own. The new VM has BlkBench.
 * dom0's own work is only a sign of life.
 */
const PUBLISHED_DOM0: Dom0Spec = { vcpus: 1, memoryMiB: 512, work: 'light' };

/** What is asked of the box is checked by `checkBoxSpec` when it is opened. */
export function setupSpec(setup: SetupName, options: SetupOptions = {}): BoxSpec {
  return { ...setupOf(setup, options), clock: options.clock ?? DEFAULT_BOX.clock };
}

function setupOf(setup: SetupName, options: SetupOptions): Omit<BoxSpec, 'clock'> {
  switch (setup) {
    case 'default':
      return {
        ...DEFAULT_BOX,
        cpus: options.cpus ?? DEFAULT_BOX.cpus,
        memoryMiB: options.memoryMiB ?? DEFAULT_BOX.memoryMiB,
        guests: withKinds(DEFAULT_BOX.guests, options.guests ?? 'mixed'),
      };
    case '1appvm-blkbench':
      return published(setup, ['blkbench'], options);
    case '1appvm-unixbench':
      return published(setup, ['unixbench'], options);
    case '3appvm':
      return published(setup, ['unixbench', 'netbench'], options);
    case 'crowded':
      return crowded(options);
  }
}

function published(setup: SetupName, works: readonly GuestWork[], options: SetupOptions): Omit<BoxSpec, 'clock'> {
  const { guests = 'pv', cpus = 8, memoryMiB = 8192 } = options;
  const vms = works.map((work, i) => appVm(`app${i + 1}`, 1, work));
  return {
    name: guests === 'pv' ? setup : `${setup}-${guests}`,
    cpus,
    memoryMiB,
    accel: 'tcg',
    dom0: PUBLISHED_DOM0,
    guests: withKinds(vms, guests),
    newVm: 'blkbench',
    pinning: 'one-cpu-each',
  };
}

/** Eight vCPUs; on its default of two CPUs each has to share with three others. */
function crowded({ guests = 'mixed', cpus = 2, memoryMiB = 2048 }: SetupOptions): Omit<BoxSpec, 'clock'> {
  const vms = [appVm('app1', 3, 'files'), appVm('app2', 1, 'unixbench'), appVm('app3', 2, 'blkbench')];
  return {
    name: guests === 'mixed' ? 'crowded' : `crowded-${guests}`,
    cpus,
    memoryMiB,
    accel: 'tcg',
    dom0: { vcpus: 2, memoryMiB: 512, work: 'light' },
    guests: withKinds(vms, guests),
    newVm: 'mix',
    pinning: 'none',
  };
}

const appVm = (name: string, vcpus: number, work: GuestWork): GuestSpec => ({
  name,
  kind: 'pv',
  memoryMiB: work === 'unixbench' ? 192 : 128,
  vcpus,
  work,
});

const withKinds = (guests: readonly GuestSpec[], kinds: GuestKind | 'mixed'): GuestSpec[] =>
  guests.map((guest, i) => ({ ...guest, kind: kinds === 'mixed' ? (i % 2 === 0 ? 'pv' : 'pvh') : kinds }));
