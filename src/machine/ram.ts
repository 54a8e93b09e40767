/**
 * The guest's RAM, read and written synchronously from outside.
 *
 * Data only. Code that QEMU has translated is not translated again when it changes here (write text through the debugger
 * stub: `Machine.writePhysicalStub`), and page tables changed here need a CR3 write to be seen.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { NinelivesError } from '../common/errors.js';
import { PAGE_SIZE } from '../x86/address.js';
import type { RamSegment } from './hmp.js';
import { dataRanges, type Mapping, mapFile, populate, releaseMapping, VIEW_SIZE } from './libc.js';

export interface GuestRam extends Disposable {
  /** How it is reached. */
  readonly kind: 'mapped' | 'process';
  /** End of the highest RAM address, in bytes. */
  readonly size: number;
  readonly segments: readonly RamSegment[];
  /** The 4 KiB page with this frame number; `undefined` where there is no RAM. Never write to it. */
  page(frame: number): Uint8Array | undefined;
  /** A copy of `length` bytes at a physical address. @throws NL_UNMAPPED where there is no RAM. */
  read(address: number, length: number): Uint8Array;
  /** @throws NL_UNMAPPED where there is no RAM. */
  write(address: number, bytes: Uint8Array): void;
  /**
   * Forgets what is cached of the guest's memory. Called at each freeze and resume.
   * @param machine what it does from now on: nothing is cached of a running one. Default "frozen".
   */
  invalidate(machine?: 'frozen' | 'running'): void;
  /** Takes page faults beforehand: about 0.1 s for each GiB the guest has touched. Worth it before time counts. */
  warm(): void;
}

/** RAM whose file is mapped here: no copy, no system call. */
export class MappedRam implements GuestRam {
  readonly kind = 'mapped';
  readonly size: number;
  readonly segments: readonly RamSegment[];
  readonly fd: number;
  #mapping: Mapping | undefined;
  /** By frame number. Pages never move, so each subarray is made once. */
  #pages: (Uint8Array | undefined)[];

  /** @param fd the RAM file, open for reading and writing; owned from here on. */
  constructor(fd: number, fileSize: number, segments: readonly RamSegment[]) {
    this.fd = fd;
    this.segments = segments;
    this.size = segmentsEnd(segments);
    const needed = Math.max(0, ...segments.map((segment) => segment.offset + segment.end - segment.start));
    if (needed > fileSize)
      throw new NinelivesError(
        'NL_RAM_UNREACHABLE',
        `the RAM file has ${fileSize} bytes, the memory map needs ${needed}`,
      );
    this.#mapping = mapFile(fd, fileSize, 'write');
    this.#pages = new Array<Uint8Array | undefined>(Math.ceil(this.size / PAGE_SIZE));
  }

  /** The mapping itself, for bulk work. @throws NL_RAM_UNREACHABLE after disposal. */
  get mapping(): Mapping {
    if (!this.#mapping) throw released();
    return this.#mapping;
  }

  page(frame: number): Uint8Array | undefined {
    return this.#pages[frame] ?? this.#makePage(frame);
  }

  read(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    eachPage(this, address, length, (page, start, end, at) => bytes.set(page.subarray(start, end), at));
    return bytes;
  }

  write(address: number, bytes: Uint8Array): void {
    eachPage(this, address, bytes.length, (page, start, end, at) =>
      page.set(bytes.subarray(at, at + end - start), start),
    );
  }

  invalidate(): void {}

  warm(): void {
    for (const { start, end } of dataRanges(this.fd, this.mapping.length)) populate(this.mapping, start, end - start);
  }

  [Symbol.dispose](): void {
    if (!this.#mapping) return;
    releaseMapping(this.#mapping);
    this.#mapping = undefined;
    this.#pages = [];
    closeSync(this.fd);
  }

  #makePage(frame: number): Uint8Array | undefined {
    const { views } = this.mapping;
    const offset = offsetOf(this.segments, frame * PAGE_SIZE);
    if (offset === undefined) return undefined;
    const start = offset % VIEW_SIZE;
    const page = views[Math.floor(offset / VIEW_SIZE)]?.subarray(start, start + PAGE_SIZE);
    this.#pages[frame] = page;
    return page;
  }
}

/** A segment with the address at which QEMU's own process holds it. */
export interface HostSegment extends RamSegment {
  readonly hostAddress: number;
}

const BLOCK_PAGES = 16;

/** RAM that is not shared, through QEMU's address space. Slower: a system call for each 64 KiB read after a freeze. */
export class ProcessRam implements GuestRam {
  readonly kind = 'process';
  readonly size: number;
  readonly segments: readonly HostSegment[];
  #fd: number | undefined;
  #pages = new Map<number, Uint8Array>();
  #machine: 'frozen' | 'running' = 'running';

  /** @throws NL_RAM_UNREACHABLE when we may not look into that process. */
  constructor(pid: number, segments: readonly HostSegment[]) {
    this.segments = segments;
    this.size = segmentsEnd(segments);
    const path = `/proc/${pid}/mem`;
    try {
      this.#fd = openSync(path, 'r+');
      this.page(0);
    } catch (error) {
      if (this.#fd !== undefined) closeSync(this.#fd);
      this.#fd = undefined;
      throw new NinelivesError('NL_RAM_UNREACHABLE', `the box's RAM is not shared, and ${path} cannot be used`, {
        fix: 'start QEMU with -object memory-backend-file,share=on,..., or run as root or as a user that may ptrace QEMU',
        cause: error,
      });
    }
  }

  page(frame: number): Uint8Array | undefined {
    const known = this.#pages.get(frame);
    if (known) return known;
    if (this.#fd === undefined) throw released();
    const segment = this.#segmentAt(frame * PAGE_SIZE);
    if (!segment) return undefined;
    if (this.#machine === 'running') return this.#readPages(this.#fd, segment, frame, frame + 1);
    const first = Math.max(frame - (frame % BLOCK_PAGES), segment.start / PAGE_SIZE);
    const end = Math.min(first + BLOCK_PAGES, segment.end / PAGE_SIZE);
    const block = this.#readPages(this.#fd, segment, first, end);
    for (let i = first; i < end; i++)
      if (!this.#pages.has(i)) this.#pages.set(i, block.subarray((i - first) * PAGE_SIZE, (i - first + 1) * PAGE_SIZE));
    return this.#pages.get(frame);
  }

  read(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    eachPage(this, address, length, (page, start, end, at) => bytes.set(page.subarray(start, end), at));
    return bytes;
  }

  write(address: number, bytes: Uint8Array): void {
    if (this.#fd === undefined) throw released();
    for (let at = 0; at < bytes.length; ) {
      const where = address + at;
      const segment = this.#segmentAt(where);
      if (!segment) throw noRam(where);
      const length = Math.min(bytes.length - at, segment.end - where);
      writeSync(this.#fd, bytes, at, length, segment.hostAddress + where - segment.start);
      at += length;
    }
    const lastFrame = Math.floor((address + bytes.length - 1) / PAGE_SIZE);
    for (let frame = Math.floor(address / PAGE_SIZE); frame <= lastFrame; frame++) {
      const page = this.#pages.get(frame);
      if (!page) continue;
      const from = Math.max(address, frame * PAGE_SIZE);
      const to = Math.min(address + bytes.length, (frame + 1) * PAGE_SIZE);
      page.set(bytes.subarray(from - address, to - address), from - frame * PAGE_SIZE);
    }
  }

  invalidate(machine: 'frozen' | 'running' = 'frozen'): void {
    this.#machine = machine;
    this.#pages.clear();
  }

  warm(): void {}

  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = undefined;
    this.#pages.clear();
  }

  #readPages(fd: number, segment: HostSegment, first: number, end: number): Buffer {
    const block = Buffer.allocUnsafeSlow((end - first) * PAGE_SIZE);
    readSync(fd, block, 0, block.length, segment.hostAddress + first * PAGE_SIZE - segment.start);
    return block;
  }

  #segmentAt(address: number): HostSegment | undefined {
    return this.segments.find((segment) => address >= segment.start && address < segment.end);
  }
}

function eachPage(
  ram: GuestRam,
  address: number,
  length: number,
  visit: (page: Uint8Array, start: number, end: number, at: number) => void,
): void {
  for (let at = 0; at < length; ) {
    const where = address + at;
    const start = where % PAGE_SIZE;
    const end = Math.min(PAGE_SIZE, start + length - at);
    const page = ram.page((where - start) / PAGE_SIZE);
    if (!page) throw noRam(where);
    visit(page, start, end, at);
    at += end - start;
  }
}

function offsetOf(segments: readonly RamSegment[], address: number): number | undefined {
  for (const segment of segments)
    if (address >= segment.start && address < segment.end) return address - segment.start + segment.offset;
  return undefined;
}

const segmentsEnd = (segments: readonly RamSegment[]): number => Math.max(0, ...segments.map((segment) => segment.end));

const noRam = (address: number): NinelivesError =>
  new NinelivesError('NL_UNMAPPED', `the box has no RAM at physical address 0x${address.toString(16)}`);

const released = (): NinelivesError => new NinelivesError('NL_RAM_UNREACHABLE', "the box's RAM was released");
