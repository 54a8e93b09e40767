import { ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mapFile } from '../../src/machine/libc.js';
import { type GuestRam, MappedRam, ProcessRam } from '../../src/machine/ram.js';
import { Folder, failure } from './fakes/folder.js';

const MIB = 2 ** 20;
const SEGMENTS = [
  { start: 0, end: MIB, offset: 0 },
  { start: 4 * MIB, end: 5 * MIB, offset: MIB },
];

let folder: Folder;

beforeEach(() => {
  folder = new Folder();
});

afterEach(() => folder[Symbol.dispose]());

function file(): number {
  const fd = openSync(folder.file('ram'), 'w+');
  ftruncateSync(fd, 2 * MIB);
  return fd;
}

/** The same memory held by a process: ours, where the file is mapped. */
function processRam(fd: number): ProcessRam {
  const { address } = mapFile(fd, 2 * MIB, 'write');
  return new ProcessRam(
    process.pid,
    SEGMENTS.map((segment) => ({ ...segment, hostAddress: address + segment.offset })),
  );
}

const kinds: [string, (fd: number) => GuestRam][] = [
  ['mapped', (fd) => new MappedRam(fd, 2 * MIB, SEGMENTS)],
  ['process', processRam],
];

describe.each(kinds)('%s RAM', (_, make) => {
  it('has pages where there is RAM, and none in the hole', () => {
    using ram = make(file());
    expect(ram.size).toBe(5 * MIB);
    expect(ram.page(0)?.length).toBe(4096);
    expect(ram.page(255)).toBeDefined();
    expect(ram.page(256)).toBeUndefined();
    expect(ram.page(1023)).toBeUndefined();
    expect(ram.page(1024)).toBeDefined();
    expect(ram.page(1280)).toBeUndefined();
  });

  it('writes across pages to the right place of the file', () => {
    using ram = make(file());
    const bytes = Uint8Array.from({ length: 9000 }, (_, i) => i % 253);
    ram.write(4 * MIB + 4090, bytes);
    expect(ram.read(4 * MIB + 4090, 9000)).toEqual(bytes);
    expect(ram.page(1024)![4090]).toBe(bytes[0]);
    expect(new Uint8Array(readFileSync(folder.file('ram')).subarray(MIB + 4090, MIB + 13090))).toEqual(bytes);
  });

  it('sees what the guest stored, at the latest after invalidate', () => {
    const fd = file();
    using ram = make(fd);
    expect(ram.page(3)![5]).toBe(0);
    writeSync(fd, Uint8Array.of(7), 0, 1, 3 * 4096 + 5);
    ram.invalidate();
    expect(ram.page(3)![5]).toBe(7);
  });

  it('shows a running machine as it is at each look', () => {
    const fd = file();
    using ram = make(fd);
    ram.invalidate('running');
    expect(ram.page(3)![5]).toBe(0);
    writeSync(fd, Uint8Array.of(7), 0, 1, 3 * 4096 + 5);
    expect(ram.page(3)![5]).toBe(7);
  });

  it('refuses reads and writes where there is no RAM', async () => {
    using ram = make(file());
    await failure(() => ram.read(MIB - 4, 8), 'NL_UNMAPPED');
    await failure(() => ram.write(2 * MIB, Uint8Array.of(1)), 'NL_UNMAPPED');
  });

  it('refuses any page once it is released', async () => {
    const ram = make(file());
    ram.page(1);
    ram.warm();
    ram[Symbol.dispose]();
    ram[Symbol.dispose]();
    await failure(() => ram.page(1), 'NL_RAM_UNREACHABLE');
    await failure(() => ram.page(2), 'NL_RAM_UNREACHABLE');
  });
});

describe('RAM that cannot be had', () => {
  it('lets a stale page read zeros instead of ending the process', () => {
    const ram = new MappedRam(file(), 2 * MIB, SEGMENTS);
    ram.write(0, Uint8Array.of(9));
    const stale = ram.page(0)!;
    ram[Symbol.dispose]();
    expect(stale[0]).toBe(0);
  });

  it('says what to do when the process cannot be looked into', async () => {
    const make = (): GuestRam => new ProcessRam(2 ** 30, [{ start: 0, end: MIB, offset: 0, hostAddress: 4096 }]);
    const error = await failure(make, 'NL_RAM_UNREACHABLE');
    expect(error.fix).toContain('share=on');
  });

  it('refuses a file smaller than the memory map says', async () => {
    await failure(() => new MappedRam(file(), MIB, SEGMENTS), 'NL_RAM_UNREACHABLE');
  });
});
