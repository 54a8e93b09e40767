/**
 * Snapshots of a whole machine as a folder: `manifest.json`, `devices` (QEMU's migration stream without RAM, 0.3 MB) and `ram` (a
 * sparse copy of guest memory).
 *
 * With the migration capability `x-ignore-shared` QEMU leaves shared RAM out of the stream; we copy it, and at restore write
 * only what differs. The idea is syzkaller's. A restored machine is a new QEMU process: an `-incoming` load is what
 * migration is made and tested for, and costs about 50 ms more than `loadvm`, which needs a qcow2 drive in the machine.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import { PAGE_SIZE } from '../x86/address.js';
import { copyBytes, dataRanges, mapFile, populate, punchHole, releaseMapping, sameBytes, VIEW_SIZE } from './libc.js';
import { asRecord, type Qmp } from './qmp.js';
import type { MappedRam } from './ram.js';

const FORMAT = 1;
const BLOCK = 64 * 1024;
const ZEROS = new Uint8Array(BLOCK);

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  /** Such as "7.2.22 (Debian ...)": device state is only read by the QEMU that wrote it. */
  qemu: z.string(),
  cpus: z.number(),
  memoryBytes: z.number(),
  argumentsHash: z.string(),
  imageHash: z.string(),
  /** What the caller wants to keep with it. */
  extra: z.record(z.string(), z.unknown()),
});

export type SnapshotManifest = z.infer<typeof manifestSchema>;

/** What a machine is, to be compared with what a snapshot is of. */
export type SnapshotIdentity = Pick<SnapshotManifest, 'qemu' | 'cpus' | 'memoryBytes' | 'argumentsHash' | 'imageHash'>;

/** Whether a snapshot fits. Not fitting is no error: the caller boots anew and saves another one. */
export type SnapshotCheck =
  | { readonly kind: 'fits'; readonly manifest: SnapshotManifest }
  | { readonly kind: 'missing' }
  | { readonly kind: 'damaged'; readonly reason: string }
  | { readonly kind: 'mismatch'; readonly differences: readonly SnapshotDifference[] };

export interface SnapshotDifference {
  readonly what: keyof SnapshotIdentity;
  readonly snapshot: string;
  readonly machine: string;
}

const devicesIn = (dir: string): string => join(dir, 'devices');
const ramIn = (dir: string): string => join(dir, 'ram');
const failedOf = (path: string): string => `${path}.failed`;
const manifestIn = (dir: string): string => join(dir, 'manifest.json');

/** Reads the manifest and compares it. */
export function checkSnapshot(dir: string, machine: SnapshotIdentity): SnapshotCheck {
  if (!existsSync(manifestIn(dir))) return { kind: 'missing' };
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(manifestIn(dir), 'utf8'));
  } catch (error) {
    return { kind: 'damaged', reason: error instanceof Error ? error.message : String(error) };
  }
  const parsed = manifestSchema.safeParse(raw);
  if (!parsed.success) return { kind: 'damaged', reason: z.prettifyError(parsed.error) };
  if (!existsSync(devicesIn(dir)) || !existsSync(ramIn(dir))) return { kind: 'damaged', reason: 'a file is missing' };
  const keys = ['qemu', 'cpus', 'memoryBytes', 'argumentsHash', 'imageHash'] as const;
  const differences = keys
    .filter((what) => parsed.data[what] !== machine[what])
    .map((what) => ({ what, snapshot: String(parsed.data[what]), machine: String(machine[what]) }));
  return differences.length === 0 ? { kind: 'fits', manifest: parsed.data } : { kind: 'mismatch', differences };
}

export interface SaveTimes {
  readonly devicesMs: number;
  readonly ramMs: number;
  readonly ramBytes: number;
}

/**
 * Saves the frozen machine. The folder appears at once and complete, in place of an older one.
 * @throws NL_NO_SPACE, NL_QMP_ERROR
 */
export async function writeSnapshot(
  dir: string,
  qmp: Qmp,
  ram: MappedRam,
  identity: SnapshotIdentity,
  extra: Readonly<Record<string, unknown>>,
): Promise<SaveTimes> {
  const draft = `${dir}.${process.pid}.tmp`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  try {
    const begin = performance.now();
    await saveDevices(qmp, devicesIn(draft));
    const middle = performance.now();
    const ramBytes = saveRam(ram, ramIn(draft));
    const end = performance.now();
    const manifest: SnapshotManifest = { format: FORMAT, ...identity, extra: { ...extra } };
    writeFileSync(manifestIn(draft), `${JSON.stringify(manifest, null, 2)}\n`);
    rmSync(dir, { recursive: true, force: true });
    renameSync(draft, dir);
    return { devicesMs: middle - begin, ramMs: end - middle, ramBytes };
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    if (asRecord(error).code === 'ENOSPC') throw noSpace(`no space for a snapshot in ${dir}`, error);
    throw error;
  }
}

/** Loads the device state into a QEMU that was started with `-incoming defer` and whose RAM is restored already. */
export async function loadDevices(qmp: Qmp, dir: string): Promise<void> {
  await ignoreSharedRam(qmp);
  await qmp.execute('migrate-incoming', { uri: `exec:cat ${shellQuote(devicesIn(dir))}` });
  await awaitMigration(qmp, 'loading the snapshot');
}

async function saveDevices(qmp: Qmp, path: string): Promise<void> {
  await ignoreSharedRam(qmp);
  // The default limit of 128 MiB/s paces even 0.3 MB.
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
  const [draft, failed, done] = [`${path}.part`, failedOf(path), path].map(shellQuote);
  await qmp.execute('migrate', { uri: `exec:cat > ${draft} && mv ${draft} ${done} || mv ${draft} ${failed}` });
  await awaitMigration(qmp, 'saving the snapshot');
  await awaitWritten(path);
  forgetBreakpoint(path);
  await reclaimDrives(qmp);
}

/** QEMU's run state in its migration stream: length with the final zero, most significant byte first, and name. */
const RUN_STATE_SECTION = 'globalstate';
const RUN_STATE_WITHIN = 32;
const AT_BREAKPOINT = Buffer.from('\0\0\0\x06debug\0\0', 'latin1');
const PAUSED = Buffer.from('\0\0\0\x07paused\0', 'latin1');

/**
 * A machine that stands at a breakpoint is saved with the run state `debug`, and QEMU 7.2 ends itself when it loads that ("invalid
 * runstate transition: 'inmigrate' -> 'debug'"). Only by executing could it come out of that state before it is saved.
 */
function forgetBreakpoint(path: string): void {
  const stream = readFileSync(path);
  const section = stream.indexOf(RUN_STATE_SECTION, 0, 'latin1');
  const state = section < 0 ? -1 : stream.indexOf(AT_BREAKPOINT, section);
  if (state < 0 || state > section + RUN_STATE_WITHIN) return;
  PAUSED.copy(stream, state);
  writeFileSync(path, stream);
}

export async function ignoreSharedRam(qmp: Qmp): Promise<void> {
  await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'x-ignore-shared', state: true }] });
}

const MIGRATION_LIMIT_MS = 30_000;

/** @throws NL_QMP_ERROR, NL_TIMEOUT */
export async function awaitMigration(qmp: Qmp, what: string): Promise<void> {
  const end = performance.now() + MIGRATION_LIMIT_MS;
  while (performance.now() < end) {
    const { status, 'error-desc': reason } = asRecord(await qmp.execute('query-migrate'));
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled')
      throw new NinelivesError('NL_QMP_ERROR', `${what} failed: ${String(reason ?? status)}`);
    await sleep(1);
  }
  throw new NinelivesError('NL_TIMEOUT', `${what} took more than ${MIGRATION_LIMIT_MS} ms`);
}

const noSpace = (message: string, cause?: unknown): NinelivesError =>
  new NinelivesError('NL_NO_SPACE', message, { fix: 'free some space, or put the cache folder elsewhere', cause });

/**
 * QEMU has completed a migration when it has written the last byte to the pipe; whoever reads that pipe may not be done.
 * @throws NL_NO_SPACE, NL_TIMEOUT
 */
async function awaitWritten(path: string): Promise<void> {
  const end = performance.now() + MIGRATION_LIMIT_MS;
  while (!existsSync(path)) {
    if (existsSync(failedOf(path))) throw noSpace(`the device state could not be written to ${path}`);
    if (performance.now() > end)
      throw new NinelivesError(
        'NL_TIMEOUT',
        `the device state was not written to ${path} within ${MIGRATION_LIMIT_MS} ms`,
      );
    await sleep(1);
  }
}

/**
 * After a migration QEMU has given its writable drives away, and only QMP's `cont` takes them back; the stub's does not. A
 * machine with such drives executes for some microseconds here, after its state was saved.
 */
async function reclaimDrives(qmp: Qmp): Promise<void> {
  const drives = (await qmp.execute('query-block')) as unknown[];
  const writable = drives.some((drive) => asRecord(asRecord(drive).inserted).ro === false);
  if (writable) await Promise.all([qmp.execute('cont'), qmp.execute('stop')]);
}

/** Copies all blocks that are not zero. Returns their bytes. */
function saveRam(ram: MappedRam, path: string): number {
  const { views, length } = ram.mapping;
  const fd = openSync(path, 'w', 0o600);
  let written = 0;
  try {
    ftruncateSync(fd, length);
    for (const range of blockRanges(ram.fd, length)) {
      for (let at = range.start; at < range.end; at += BLOCK) {
        const block = views[Math.floor(at / VIEW_SIZE)]!.subarray(at % VIEW_SIZE, (at % VIEW_SIZE) + BLOCK);
        if (Buffer.compare(block, ZEROS.subarray(0, block.length)) === 0) continue;
        written += writeSync(fd, block, 0, block.length, at);
      }
    }
  } finally {
    closeSync(fd);
  }
  return written;
}

export interface RamRestore {
  /** Bytes that were looked at, and that differed and were written. */
  readonly comparedBytes: number;
  readonly writtenBytes: number;
}

/**
 * Makes guest RAM equal to the snapshot's, writing only pages that differ. No QEMU may execute the guest meanwhile.
 * @throws NL_RAM_UNREACHABLE when the snapshot's RAM cannot be mapped.
 */
export function restoreRam(ram: MappedRam, dir: string): RamRestore {
  const { address: live, length } = ram.mapping;
  const { address: golden, ranges } = goldenRam(ramIn(dir), length);
  for (const hole of gaps(ranges, length)) punchHole(ram.fd, hole.start, hole.end - hole.start);
  let comparedBytes = 0;
  let writtenBytes = 0;
  for (const { start, end } of ranges) {
    for (let at = start; at < end; at += BLOCK) {
      const size = Math.min(BLOCK, end - at);
      comparedBytes += size;
      if (sameBytes(live + at, golden + at, size)) continue;
      for (let page = at; page < at + size; page += PAGE_SIZE) {
        if (sameBytes(live + page, golden + page, PAGE_SIZE)) continue;
        copyBytes(live + page, golden + page, PAGE_SIZE);
        writtenBytes += PAGE_SIZE;
      }
    }
  }
  return { comparedBytes, writtenBytes };
}

interface GoldenRam {
  /** Which file it is: a snapshot that was saved anew is another one. */
  readonly identity: string;
  readonly address: number;
  readonly ranges: readonly { start: number; end: number }[];
  readonly release: () => void;
}

/**
 * The snapshot's RAM that was used last stays mapped: a campaign goes back to it thousands of times, and to map it anew takes its
 * page faults again, and address space that is never given back.
 */
let lastGolden: GoldenRam | undefined;

function goldenRam(path: string, length: number): GoldenRam {
  const fd = openSync(path, 'r');
  try {
    const { dev, ino, mtimeNs } = fstatSync(fd, { bigint: true });
    const identity = `${dev} ${ino} ${mtimeNs} ${length}`;
    if (lastGolden?.identity === identity) return lastGolden;
    lastGolden?.release();
    lastGolden = undefined;
    const mapping = mapFile(fd, length, 'read');
    const ranges = blockRanges(fd, length);
    for (const { start, end } of ranges) populate(mapping, start, end - start);
    lastGolden = { identity, address: mapping.address, ranges, release: () => releaseMapping(mapping) };
    return lastGolden;
  } finally {
    closeSync(fd);
  }
}

/** Where a sparse file has data, in whole blocks, ascending and apart from each other. */
function blockRanges(fd: number, length: number): { start: number; end: number }[] {
  const blocks: { start: number; end: number }[] = [];
  for (const range of dataRanges(fd, length)) {
    const start = alignDown(range.start);
    const end = Math.min(length, alignDown(range.end + BLOCK - 1));
    const last = blocks.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else blocks.push({ start, end });
  }
  return blocks;
}

const alignDown = (offset: number): number => offset - (offset % BLOCK);

/** What ascending ranges leave free below `length`. */
function gaps(ranges: readonly { start: number; end: number }[], length: number): { start: number; end: number }[] {
  const free: { start: number; end: number }[] = [];
  let at = 0;
  for (const { start, end } of ranges) {
    if (start > at) free.push({ start: at, end: start });
    at = end;
  }
  if (at < length) free.push({ start: at, end: length });
  return free;
}

const shellQuote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
