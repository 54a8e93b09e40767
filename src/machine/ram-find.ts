/** Finds out how a running QEMU holds its RAM, and opens it the best way there is. */
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { NinelivesError } from '../common/errors.js';
import { parseHostAddress, parseRamMap, type RamSegment } from './hmp.js';
import type { Qmp } from './qmp.js';
import { type GuestRam, type HostSegment, MappedRam, ProcessRam } from './ram.js';

/** How guest RAM is backed, as QEMU tells it. */
interface Backend {
  /** Name of the RAM block in `info mtree`. */
  readonly block: string;
  /** The file, when it is one and shared. */
  readonly sharedPath: string | undefined;
}

/**
 * Opens the RAM of the machine behind `qmp`. Maps the file when it is shared; otherwise goes through QEMU's process.
 * @param pid QEMU's process id on this host.
 * @param fd the RAM file, when the caller already has it open; owned by the result.
 * @throws NL_RAM_UNREACHABLE when neither is possible.
 */
export async function openRam(qmp: Qmp, pid: number, fd?: number): Promise<GuestRam> {
  const [backend, map] = await Promise.all([findBackend(qmp), qmp.hmp('info mtree -f')]);
  const segments = parseRamMap(map, backend.block);
  if (segments.length === 0)
    throw new NinelivesError('NL_RAM_UNREACHABLE', `QEMU's memory map has no RAM block "${backend.block}"`, {
      fix: 'give the machine one memory backend (-object memory-backend-file,id=ram0,... -machine memory-backend=ram0)',
    });
  const file = fd ?? (backend.sharedPath === undefined ? undefined : openRamFile(backend.sharedPath, pid));
  if (file === undefined) return new ProcessRam(pid, await hostSegments(qmp, segments));
  try {
    return new MappedRam(file, fstatSync(file).size, segments);
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

async function findBackend(qmp: Qmp): Promise<Backend> {
  const path = String(await qmp.execute('qom-get', { path: '/machine', property: 'memory-backend' }));
  const property = (name: string): Promise<unknown> =>
    qmp.execute('qom-get', { path, property: name }).catch(() => undefined);
  const [share, memPath] = await Promise.all([property('share'), property('mem-path')]);
  const shared = share === true && typeof memPath === 'string' && memPath !== '';
  return { block: path.split('/').at(-1) ?? path, sharedPath: shared ? memPath : undefined };
}

/**
 * The RAM file by its path, or, since we unlink ours as soon as QEMU has it, by QEMU's own descriptor of it.
 * `undefined` when neither can be opened.
 */
function openRamFile(path: string, pid: number): number | undefined {
  for (const candidate of [...descriptorsOf(path, pid), path]) {
    try {
      return openSync(candidate, 'r+');
    } catch {
      // Not permitted or gone: the next way, and in the end QEMU's process memory, which names the reason if it fails too.
    }
  }
  return undefined;
}

function descriptorsOf(path: string, pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  try {
    return readdirSync(folder)
      .map((name) => `${folder}/${name}`)
      .filter((link) => {
        try {
          const target = readlinkSync(link);
          return target === path || target === `${path} (deleted)`;
        } catch {
          return false;
        }
      });
  } catch {
    return [];
  }
}

async function hostSegments(qmp: Qmp, segments: readonly RamSegment[]): Promise<HostSegment[]> {
  return Promise.all(
    segments.map(async (segment) => {
      const text = await qmp.hmp(`gpa2hva 0x${segment.start.toString(16)}`);
      const hostAddress = parseHostAddress(text);
      if (hostAddress === undefined)
        throw new NinelivesError('NL_RAM_UNREACHABLE', `QEMU does not say where it holds its RAM: ${text.trim()}`);
      return { ...segment, hostAddress: Number(hostAddress) };
    }),
  );
}
