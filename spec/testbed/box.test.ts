import { describe, expect, it } from 'vitest';
import { machineSpecOf, snapshotFolder } from '../../src/testbed/box.js';
import type { BoxFiles } from '../../src/testbed/images.js';
import { cacheFolder, ownVersion } from '../../src/testbed/paths.js';
import { SETUP_NAMES, setupSpec } from '../../src/testbed/setups.js';
import { type BoxSpec, checkBoxSpec, DEFAULT_BOX, DEFAULT_GUESTS, type GuestSpec } from '../../src/testbed/spec.js';
import { guestConfig, newVmConfig } from '../../src/testbed/vm-config.js';

const FILES: BoxFiles = {
  xen: '/c/xen',
  xenSymbols: '/c/xen-syms',
  xenVersion: '4.17.7',
  kernel: '/c/li,nux',
  initramfs: '/c/dom0.cpio',
  hash: 'h',
  magic: 'NL',
};

const GUEST: GuestSpec = { name: 'app2', kind: 'pvh', memoryMiB: 96, vcpus: 1, work: 'files' };

const refuses = (change: Partial<BoxSpec>): void =>
  expect(() => checkBoxSpec({ ...DEFAULT_BOX, ...change })).toThrow(expect.objectContaining({ code: 'NL_USAGE' }));

describe('the spec of a box', () => {
  it('has three AppVMs at least, PV and PVH', () => {
    checkBoxSpec(DEFAULT_BOX);
    expect(DEFAULT_GUESTS.length).toBeGreaterThanOrEqual(3);
    expect(new Set(DEFAULT_GUESTS.map((guest) => guest.kind))).toEqual(new Set(['pv', 'pvh']));
  });

  it('can be as large as 16 CPUs and 16 GiB', () => checkBoxSpec({ ...DEFAULT_BOX, cpus: 16, memoryMiB: 16384 }));

  it('is refused when it cannot be', () => {
    refuses({ cpus: 0 });
    refuses({ cpus: 2.5 });
    refuses({ memoryMiB: 512 });
    refuses({ memoryMiB: 32768 });
    refuses({ name: '../x' });
    refuses({ guests: [] });
    refuses({ guests: [{ ...GUEST, name: 'dom0' }] });
    refuses({ guests: [DEFAULT_GUESTS[0]!, DEFAULT_GUESTS[0]!] });
    refuses({ memoryMiB: 1024, guests: [{ ...GUEST, memoryMiB: 1024 }] });
    refuses({ guests: [{ ...GUEST, vcpus: 9 }] });
    refuses({ guests: [{ ...GUEST, work: 'unixbench', memoryMiB: 128 }] });
    refuses({ dom0: { ...DEFAULT_BOX.dom0, vcpus: 0 } });
    refuses({ dom0: { ...DEFAULT_BOX.dom0, memoryMiB: 128 } });
  });

  it('is refused when its vCPUs are to have a CPU each and there are too few', () => {
    refuses({ pinning: 'one-cpu-each', cpus: 5 });
    checkBoxSpec({ ...DEFAULT_BOX, pinning: 'one-cpu-each', cpus: 6 });
  });
});

describe('a setup', () => {
  it('can be opened, with guests of either kind', () => {
    for (const name of SETUP_NAMES)
      for (const guests of ['pv', 'pvh', 'mixed'] as const) checkBoxSpec(setupSpec(name, { guests }));
    expect(setupSpec('default')).toEqual(DEFAULT_BOX);
    expect(setupSpec('3appvm').guests.map((guest) => guest.kind)).toEqual(['pv', 'pv']);
    expect(setupSpec('1appvm-blkbench', { guests: 'pvh' }).guests[0]?.kind).toBe('pvh');
  });

  it('has its vCPUs on CPUs of their own, as published, or more of them than CPUs', () => {
    expect(setupSpec('3appvm')).toMatchObject({
      cpus: 8,
      memoryMiB: 8192,
      pinning: 'one-cpu-each',
      dom0: { vcpus: 1 },
    });
    const crowded = setupSpec('crowded');
    const vcpus = crowded.guests.reduce((sum, guest) => sum + guest.vcpus, crowded.dom0.vcpus);
    expect(vcpus).toBeGreaterThan(2 * crowded.cpus);
    expect(crowded.pinning).toBe('none');
  });

  it('has a snapshot of its own', () => {
    const specs = SETUP_NAMES.flatMap((name) => [
      setupSpec(name, { guests: 'pv' }),
      setupSpec(name, { guests: 'pvh' }),
      setupSpec(name, { guests: 'pvh', cpus: 5 }),
    ]);
    expect(new Set(specs.map((spec) => snapshotFolder(spec, FILES, '/c'))).size).toBe(specs.length);
  });
});

describe("QEMU's command line", () => {
  const args = machineSpecOf(DEFAULT_BOX, FILES).args;
  const after = (option: string): string => args[args.indexOf(option) + 1] ?? '';

  it('boots Xen with dom0 by multiboot, commas in paths doubled', () => {
    expect(after('-kernel')).toBe('/c/xen');
    expect(after('-initrd')).toMatch(/^\/c\/li,,nux console=hvc0 .*,\/c\/dom0\.cpio$/);
    expect(after('-append')).toContain('bootscrub=0 noreboot');
  });

  it('emulates a CPU with nested paging, or passes the own one on', () => {
    expect(after('-cpu')).toBe('qemu64,+svm,+npt');
    expect(machineSpecOf({ ...DEFAULT_BOX, accel: 'kvm' }, FILES).args).toContain('host');
  });

  it('pins vCPUs only where asked to', () => {
    expect(after('-append')).not.toContain('dom0_vcpus_pin');
    expect(machineSpecOf({ ...DEFAULT_BOX, pinning: 'one-cpu-each' }, FILES).args.join(' ')).toContain(
      'dom0_vcpus_pin',
    );
  });
});

describe("a guest's configuration", () => {
  const spec: BoxSpec = {
    ...DEFAULT_BOX,
    guests: [{ ...GUEST, name: 'app1', vcpus: 2, work: 'blkbench' }, GUEST],
    newVm: 'blkbench',
    cpus: 8,
  };

  it('says what the guest is and does', () => {
    const text = guestConfig(GUEST, spec);
    expect(text).toContain('name="app2"\ntype="pvh"\nmemory=96\nvcpus=1\n');
    expect(text).toContain('ninelives.kind=pvh ninelives.work=files"\n');
    expect(text).not.toMatch(/^(cpus|disk)=/m);
  });

  it('gives each VM with a disk one of its own', () => {
    expect(guestConfig(spec.guests[0]!, spec)).toContain('disk=["phy:/dev/ram0,xvda,w"]\n');
    expect(newVmConfig(spec)).toContain('disk=["phy:/dev/ram1,xvda,w"]\n');
    expect(newVmConfig(DEFAULT_BOX)).not.toContain('disk=');
  });

  it("pins each vCPU to one CPU, behind dom0's", () => {
    const pinned: BoxSpec = { ...spec, pinning: 'one-cpu-each' };
    expect(guestConfig(spec.guests[0]!, pinned)).toContain('vcpus=2\ncpus=["2", "3"]\n');
    expect(guestConfig(GUEST, pinned)).toContain('cpus=["4"]\n');
    expect(newVmConfig(pinned)).toContain('cpus=["5"]\n');
  });
});

it('knows the cache folder and its own version', () => {
  expect(cacheFolder({ NINELIVES_CACHE: '/a', HOME: '/h' })).toBe('/a');
  expect(cacheFolder({ XDG_CACHE_HOME: '/x' })).toBe('/x/ninelives');
  expect(cacheFolder({})).toMatch(/\.cache\/ninelives$/);
  expect(ownVersion()).toMatch(/^\d+\.\d+\.\d+/);
});
