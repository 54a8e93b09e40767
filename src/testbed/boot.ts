/** From a machine's reset to a box that is up. */
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { NinelivesError } from '../common/errors.js';
import type { Progress } from '../common/progress.js';
import type { Machine } from '../machine/machine.js';
import { consoleLogIn } from '../machine/spec.js';
import type { ReportReader } from './reports.js';
import type { BoxSpec } from './spec.js';

/** Name of Xen's and dom0's console. */
export const CONSOLE = 'xen';
/** An idle 2-core host needs less than a minute, one that is busy with other things several times that. */
const BOOT_LIMIT_MS = 600_000;
/** Without a word on the console or a step of work for this long, a boot is stuck. */
const SILENCE_LIMIT_MS = 120_000;
const POLL_MS = 200;
/** A scan of all RAM takes the booting machine some tens of milliseconds of a CPU. */
const SCAN_EVERY_MS = 1000;
/** Steps of work that each VM has done when the box counts as up: past everything that only happens at boot. */
const UP_STEPS = 5;
/**
 * Console text that ends a boot: Xen's and Linux's panics, a guest that shut down, and what `guest/dom0-init.sh` calls an error. Now and
 * then the kernel of a PVH guest ends in a triple fault while it boots under QEMU 7.2's emulation.
 */
const BOOT_FAILURE = /Panic on CPU|Kernel panic|Triple fault - invoking HVM shutdown|^ninelives: .*ERROR/m;

/**
 * Waits until all VMs have done some work.
 * @throws NL_BOOT_FAILED with the end of the console, the signal's reason
 */
export async function awaitUp(
  spec: BoxSpec,
  machine: Machine,
  reader: ReportReader,
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  const dir = runtimeDirOf(machine);
  const begin = performance.now();
  let spokenMs = begin;
  let scannedMs = 0;
  let length = 0;
  const fail = (what: string): never => {
    throw new NinelivesError('NL_BOOT_FAILED', `the box did not boot: ${what}\n${tail(consoleText(dir), 30)}`, {
      fix: 'read the console above; a busy host may need a second try',
    });
  };
  for (;;) {
    await sleep(POLL_MS);
    signal?.throwIfAborted();
    const now = performance.now();
    const text = consoleText(dir);
    if (text.length !== length) spokenMs = now;
    length = text.length;
    const failure = BOOT_FAILURE.exec(text);
    if (failure) fail(lineAt(text, failure.index));
    if (machine.state !== 'running') fail(`the machine stopped (${machine.lastStop.kind})`);
    if (now - begin > BOOT_LIMIT_MS) fail(`not all VMs were up after ${BOOT_LIMIT_MS / 1000} s`);
    if (now - spokenMs > SILENCE_LIMIT_MS) fail(`nothing happened for ${SILENCE_LIMIT_MS / 1000} s`);
    // Reports are looked for only once dom0's init has spoken: a scan costs the booting machine some time.
    if (!/^ninelives: dom0/m.test(text)) {
      progress.detail(text === '' ? 'firmware' : 'Xen and dom0');
      continue;
    }
    if (now - scannedMs >= SCAN_EVERY_MS) {
      reader.rescan();
      scannedMs = now;
    }
    const steps = new Map(reader.read().map((report) => [report.name, report.n]));
    const names = ['dom0', ...spec.guests.map((guest) => guest.name)];
    const lacking = names.filter((name) => (steps.get(name) ?? 0) < UP_STEPS);
    if (lacking.length === 0) return;
    progress.detail(`waiting for ${lacking.join(', ')}, ${Math.round((now - begin) / 1000)} s`);
  }
}

/** Folder with the sockets and logs of a box's machine. */
export function runtimeDirOf(machine: Machine): string {
  const dir = machine.runtimeDir;
  if (dir === undefined) throw new NinelivesError('NL_INTERNAL', 'a box whose machine we did not start');
  return dir;
}

/** What Xen and dom0 have said so far. */
export function consoleText(dir: string): string {
  const path = consoleLogIn(dir, CONSOLE);
  return existsSync(path) ? readFileSync(path, 'latin1').replaceAll('\r', '') : '';
}

/** The last lines, without the control sequences of terminals. */
export function tail(text: string, lines: number): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
  const plain = text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '');
  return plain.trimEnd().split('\n').slice(-lines).join('\n');
}

const lineAt = (text: string, index: number): string => text.slice(index).split('\n')[0] ?? '';
