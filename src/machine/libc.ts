/** The few C library calls that Node has no function for, through koffi (prebuilt, no compiler needed). Linux only. */
import koffi from 'koffi';
import { NinelivesError } from '../common/errors.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
/** Linux 5.14 and newer; older kernels refuse it, which costs warmth only. */
const MADV_POPULATE_READ = 22;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** V8 in Node 20 has no array buffers above 4 GiB, so a mapping is seen through views of this many bytes. */
export const VIEW_SIZE = 2 ** 30;

interface Calls {
  mmap(address: number, length: number, protection: number, flags: number, fd: number, offset: number): number;
  memcmp(a: number, b: number, length: number): number;
  memcpy(to: number, from: number, length: number): number;
  madvise(address: number, length: number, advice: number): number;
  lseek(fd: number, offset: number, whence: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  flock(fd: number, operation: number): number;
}

let calls: Calls | undefined;

function libc(): Calls {
  if (calls) return calls;
  const library = koffi.load('libc.so.6');
  calls = {
    mmap: library.func('uintptr_t mmap(uintptr_t addr, size_t len, int prot, int flags, int fd, int64_t off)'),
    memcmp: library.func('int memcmp(uintptr_t a, uintptr_t b, size_t n)'),
    memcpy: library.func('uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t n)'),
    madvise: library.func('int madvise(uintptr_t addr, size_t len, int advice)'),
    lseek: library.func('int64_t lseek(int fd, int64_t off, int whence)'),
    fallocate: library.func('int fallocate(int fd, int mode, int64_t off, int64_t len)'),
    flock: library.func('int flock(int fd, int operation)'),
  } as unknown as Calls;
  return calls;
}

/** A file's bytes in our address space. Addresses are host addresses. */
export interface Mapping {
  readonly address: number;
  readonly length: number;
  /** The bytes, in pieces of VIEW_SIZE. */
  readonly views: readonly Uint8Array[];
}

/** @throws NL_RAM_UNREACHABLE when the kernel refuses. */
export function mapFile(fd: number, length: number, access: 'read' | 'write'): Mapping {
  const protection = access === 'write' ? PROT_READ | PROT_WRITE : PROT_READ;
  const address = libc().mmap(0, length, protection, MAP_SHARED, fd, 0);
  if (!(address > 0) || address > Number.MAX_SAFE_INTEGER)
    throw new NinelivesError('NL_RAM_UNREACHABLE', `mmap of ${length} bytes failed (errno ${koffi.errno()})`, {
      fix: 'check ulimit -v and that the file can be opened for writing',
    });
  const views: Uint8Array[] = [];
  for (let at = 0; at < length; at += VIEW_SIZE)
    views.push(new Uint8Array(koffi.view(address + at, Math.min(VIEW_SIZE, length - at))));
  return { address, length, views };
}

/**
 * Gives the file's pages back. The address range stays, as private zero pages that cost no memory: array buffers on it
 * cannot be detached, and a stale one must read zeros and not end the process with SIGSEGV.
 */
export function releaseMapping(mapping: Mapping): void {
  const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
  libc().mmap(mapping.address, mapping.length, PROT_READ | PROT_WRITE, flags, -1, 0);
}

/** Whether two ranges of our address space hold the same bytes. */
export const sameBytes = (a: number, b: number, length: number): boolean => libc().memcmp(a, b, length) === 0;

export const copyBytes = (to: number, from: number, length: number): void => {
  libc().memcpy(to, from, length);
};

/** Where a sparse file has data: ascending [start, end) byte ranges below `length`. */
export function dataRanges(fd: number, length: number): { start: number; end: number }[] {
  const ranges: { start: number; end: number }[] = [];
  for (let at = 0; at < length; ) {
    const start = libc().lseek(fd, at, SEEK_DATA);
    if (start < 0 || start >= length) break;
    const hole = libc().lseek(fd, start, SEEK_HOLE);
    const end = hole < 0 ? length : Math.min(hole, length);
    ranges.push({ start, end });
    at = end;
  }
  return ranges;
}

/** Takes the page faults of a part of a mapping now instead of at its first read. */
export const populate = (mapping: Mapping, offset: number, length: number): void => {
  libc().madvise(mapping.address + offset, length, MADV_POPULATE_READ);
};

/** Makes a range of a file read as zeros and frees its memory. Offsets and lengths are multiples of 4096. */
export function punchHole(fd: number, offset: number, length: number): boolean {
  return libc().fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length) === 0;
}

/**
 * Takes the exclusive lock of an open file, at once or not at all. The kernel gives it back when the descriptor is closed, so the
 * lock of a process that was killed is nobody's.
 */
export const tryLock = (fd: number): boolean => libc().flock(fd, LOCK_EX | LOCK_NB) === 0;
