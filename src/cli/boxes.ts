/** Boxes that `ninelives up` left running: each has a folder with its sockets, its logs and a record of what it is. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';

const recordSchema = z.object({
  format: z.literal(1),
  name: z.string(),
  /** QEMU's process. */
  pid: z.int().positive(),
  qmp: z.string(),
  /** Socket of Xen's and dom0's console. */
  console: z.string(),
  startedAt: z.iso.datetime(),
  xenVersion: z.string(),
  cpus: z.int(),
  memoryMiB: z.int(),
  accel: z.enum(['tcg', 'kvm']),
  vms: z.array(z.object({ name: z.string(), kind: z.enum(['dom0', 'pv', 'pvh']) })),
  /** What the VMs' own reports in the box's memory begin with. */
  magic: z.string(),
});

export type BoxRecord = z.infer<typeof recordSchema>;

const RECORD = 'box.json';
const END_LIMIT_MS = 5000;

/** The folder for a box of this name. Short, since the paths of sockets in it may have 107 characters. */
export function boxFolder(name: string, environment: NodeJS.ProcessEnv = process.env): string {
  return join(baseFolder(environment), `${prefix(environment)}${name}`);
}

function baseFolder({ XDG_RUNTIME_DIR }: NodeJS.ProcessEnv): string {
  return XDG_RUNTIME_DIR !== undefined && existsSync(XDG_RUNTIME_DIR) ? XDG_RUNTIME_DIR : tmpdir();
}

/** A temporary folder is shared by all users of the machine. */
function prefix(environment: NodeJS.ProcessEnv): string {
  const isShared = baseFolder(environment) === tmpdir();
  return isShared ? `ninelives-box-u${process.getuid?.() ?? 0}-` : 'ninelives-box-';
}

/** Makes the folder for a new box. @throws NL_BOX_RUNNING */
export function claimBox(name: string): string {
  const running = findBox(name);
  if (running !== undefined) {
    throw new NinelivesError('NL_BOX_RUNNING', `box "${name}" is running already, as process ${running.pid}`, {
      fix: `use it, or take it down first: ninelives down${name === 'default' ? '' : ` --name ${name}`}`,
    });
  }
  const folder = boxFolder(name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  return folder;
}

export function recordBox(record: BoxRecord): void {
  writeFileSync(join(boxFolder(record.name), RECORD), `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
}

export const forgetBox = (name: string): void => rmSync(boxFolder(name), { recursive: true, force: true });

/** The running box of this name. A record whose QEMU is gone does not count. */
export function findBox(name: string): BoxRecord | undefined {
  const path = join(boxFolder(name), RECORD);
  if (!existsSync(path)) return undefined;
  const record = recordSchema.safeParse(readJson(path));
  return record.success && isItsQemu(record.data) ? record.data : undefined;
}

/** @throws NL_NO_BOX */
export function requireBox(name: string): BoxRecord {
  const record = findBox(name);
  if (record !== undefined) return record;
  const others = runningBoxes().map((box) => box.name);
  throw new NinelivesError('NL_NO_BOX', `no box "${name}" is running`, {
    fix: others.length === 0 ? 'start one: ninelives up' : `choose one with --name: ${others.join(', ')}`,
  });
}

export function runningBoxes(): BoxRecord[] {
  const start = prefix(process.env);
  return readdirSync(baseFolder(process.env))
    .filter((entry) => entry.startsWith(start))
    .flatMap((entry) => findBox(entry.slice(start.length)) ?? []);
}

/** Ends a box's QEMU, whatever state it is in, and removes its folder. @throws NL_TIMEOUT when it cannot be ended */
export async function endBox(record: BoxRecord): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!isItsQemu(record)) break;
    process.kill(record.pid, signal);
    for (const end = performance.now() + END_LIMIT_MS; isItsQemu(record) && performance.now() < end; ) await sleep(20);
  }
  if (isItsQemu(record)) {
    throw new NinelivesError('NL_TIMEOUT', `QEMU of box "${record.name}" (process ${record.pid}) does not end`, {
      fix: `look at what it waits for: cat /proc/${record.pid}/wchan`,
    });
  }
  forgetBox(record.name);
}

/** Process ids are used again, so the command line has to name this box's socket. */
function isItsQemu({ pid, qmp }: BoxRecord): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(qmp);
  } catch {
    return false;
  }
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}
