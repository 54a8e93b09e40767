import { describe, expect, it } from 'vitest';
import { machineSpecOf } from '../../src/testbed/box.js';
import { type BoxFiles, guestConfig } from '../../src/testbed/images.js';
import { cacheFolder, ownVersion } from '../../src/testbed/paths.js';
import { type BoxSpec, checkBoxSpec, DEFAULT_BOX, DEFAULT_GUESTS } from '../../src/testbed/spec.js';

const FILES: BoxFiles = {
  xen: '/c/xen',
  xenSymbols: '/c/xen-syms',
  xenVersion: '4.17.7',
  kernel: '/c/li,nux',
  initramfs: '/c/dom0.cpio',
  hash: 'h',
  magic: 'NL',
};

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
    refuses({ guests: [{ name: 'dom0', kind: 'pv', memoryMiB: 128 }] });
    refuses({ guests: [DEFAULT_GUESTS[0]!, DEFAULT_GUESTS[0]!] });
    refuses({ memoryMiB: 1024, guests: [{ name: 'big', kind: 'pv', memoryMiB: 1024 }] });
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

it("writes a guest's configuration", () => {
  const text = guestConfig({ name: 'app2', kind: 'pvh', memoryMiB: 96 }, 3);
  expect(text).toContain('name="app2"\ntype="pvh"\n');
  expect(text).toContain('memory=96\n');
  expect(text).toContain('cpus="3"\n');
  expect(text).toContain('ninelives.kind=pvh"\n');
});

it('knows the cache folder and its own version', () => {
  expect(cacheFolder({ NINELIVES_CACHE: '/a', HOME: '/h' })).toBe('/a');
  expect(cacheFolder({ XDG_CACHE_HOME: '/x' })).toBe('/x/ninelives');
  expect(cacheFolder({})).toMatch(/\.cache\/ninelives$/);
  expect(ownVersion()).toMatch(/^\d+\.\d+\.\d+/);
});
