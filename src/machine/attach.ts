/** The steps of getting hold of a QEMU that already runs. */
import { dirname, join } from 'node:path';
import { NinelivesError } from '../common/errors.js';
import { processOf } from './proc.js';
import { asRecord, type Qmp, type QmpVersion } from './qmp.js';
import type { StubAddress } from './rsp/connection.js';

/** The oldest QEMU whose stub, monitor and migration are known to do what we need. */
export const OLDEST_QEMU = { major: 7, minor: 2 } as const;

/** @throws NL_QEMU_TOO_OLD */
export function requireVersion(version: Pick<QmpVersion, 'major' | 'minor'>): void {
  const { major, minor } = OLDEST_QEMU;
  if (version.major > major || (version.major === major && version.minor >= minor)) return;
  throw new NinelivesError(
    'NL_QEMU_TOO_OLD',
    `QEMU is ${version.major}.${version.minor}, but ${major}.${minor} is needed`,
    {
      fix: 'install qemu-system-x86 of Debian 12 or newer',
    },
  );
}

export interface CpuFact {
  readonly index: number;
  /** The host thread that executes this CPU. */
  readonly threadId: number;
  readonly apicId: number;
}

export async function readCpus(qmp: Qmp): Promise<CpuFact[]> {
  const cpus = (await qmp.execute('query-cpus-fast')) as unknown[];
  return Promise.all(
    cpus.map(async (value) => {
      const cpu = asRecord(value);
      const index = Number(cpu['cpu-index']);
      const apicId = await qmp
        .execute('qom-get', { path: String(cpu['qom-path']), property: 'apic-id' })
        .catch(() => index);
      return { index, threadId: Number(cpu['thread-id']), apicId: Number(apicId) };
    }),
  );
}

/** @throws NL_QEMU_EXITED when QEMU is not a process that this host's /proc shows. */
export function findProcess(cpus: readonly CpuFact[]): number {
  const pid = cpus[0] && processOf(cpus[0].threadId);
  if (pid === undefined)
    throw new NinelivesError('NL_QEMU_EXITED', "QEMU's process is not visible from here", {
      fix: 'run in the same container (PID namespace) as QEMU',
    });
  return pid;
}

/** How the stub was found: one that we switched on is switched off again at the end. */
export interface FoundStub {
  readonly address: StubAddress;
  readonly startedByUs: boolean;
}

/**
 * Finds the debugger stub of a running QEMU, or switches it on.
 * @param wanted where it should be, when the user says so: a socket path or host:port.
 * @throws NL_STUB_BUSY when another debugger is connected; NL_STUB_ERROR when it cannot be switched on.
 */
export async function findStub(qmp: Qmp, qmpPath: string, wanted?: string): Promise<FoundStub> {
  const devices = ((await qmp.execute('query-chardev')) as unknown[]).map((value) => {
    const { label, filename } = asRecord(value);
    return { label: String(label), filename: String(filename) };
  });
  const candidates = devices
    .filter((device) => !device.label.startsWith('compat_monitor') && looksLikeStub(device))
    .map((device) => ({ device, address: listeningAddress(device.filename) }));
  const asked = wanted === undefined ? undefined : parseAddress(wanted);
  const stub = candidates.find(({ address }) => asked === undefined || sameAddress(address, asked)) ?? candidates[0];
  if (stub) {
    if (!stub.device.filename.startsWith('disconnected:'))
      throw new NinelivesError('NL_STUB_BUSY', `another debugger is connected to the stub (${stub.device.filename})`, {
        fix: 'close the other debugger; QEMU serves one at a time',
      });
    const address = asked ?? stub.address;
    if (address) return { address, startedByUs: false };
    throw new NinelivesError('NL_STUB_LOST', 'the debugger stub is on, but QMP does not tell where', {
      fix: 'give its address with --gdb',
    });
  }
  const address = asked ?? defaultAddress(qmpPath);
  await startStub(qmp, address);
  return { address, startedByUs: true };
}

/** QEMU labels the device of a stub "gdb" unless the user named it (`-chardev ...,id=NAME -gdb chardev:NAME`). */
const looksLikeStub = (device: { label: string; filename: string }): boolean =>
  device.label === 'gdb' || (device.filename.includes('server') && /gdb/i.test(`${device.label} ${device.filename}`));

/** Switches the stub off; the machine goes on as it was. */
export async function stopStub(qmp: Qmp): Promise<void> {
  await qmp.hmp('gdbserver none');
}

async function startStub(qmp: Qmp, address: StubAddress): Promise<void> {
  const device =
    address.kind === 'unix' ? `unix:${address.path},server=on,wait=off` : `tcp:${address.host}:${address.port}`;
  const text = await qmp.hmp(`gdbserver ${device}`);
  if (!/Could not open|failed|error/i.test(text)) return;
  const inUse = /in use/i.test(text);
  throw new NinelivesError(
    inUse ? 'NL_ADDRESS_IN_USE' : 'NL_STUB_ERROR',
    `the stub cannot be started: ${text.trim()}`,
    {
      fix: 'give another address with --gdb',
    },
  );
}

/** Socket paths hold 107 characters (sun_path); a relative QMP path would be relative to another process. */
function defaultAddress(qmpPath: string): StubAddress {
  const path = join(dirname(qmpPath), 'ninelives-gdb.sock');
  if (path.length > 107)
    throw new NinelivesError('NL_USAGE', `the socket path ${path} is too long`, { fix: 'give one with --gdb' });
  return { kind: 'unix', path };
}

/** "host:port", ":port" or a socket path. */
export function parseAddress(text: string): StubAddress {
  const tcp = /^(?:tcp:)?([^/]*):(\d+)$/.exec(text);
  if (tcp) return { kind: 'tcp', host: tcp[1] || '127.0.0.1', port: Number(tcp[2]) };
  return { kind: 'unix', path: text.replace(/^unix:/, '') };
}

/** The address in a character device's description, such as "disconnected:unix:/run/x/gdb.sock,server=on". */
function listeningAddress(filename: string): StubAddress | undefined {
  const match = /^(?:disconnected:)?(unix|tcp|telnet):(.+?)(?:,.*)?$/.exec(filename);
  if (!match || !filename.includes('server')) return undefined;
  if (match[1] === 'unix') return { kind: 'unix', path: match[2]! };
  const [host, port] = splitHost(match[2]!);
  return { kind: 'tcp', host: host === '0.0.0.0' || host === '' || host === '::' ? '127.0.0.1' : host, port };
}

function splitHost(text: string): [string, number] {
  const at = text.lastIndexOf(':');
  return [text.slice(0, at).replace(/^\[|\]$/g, ''), Number(text.slice(at + 1))];
}

const sameAddress = (a: StubAddress | undefined, b: StubAddress): boolean =>
  a !== undefined &&
  (a.kind === 'unix' ? b.kind === 'unix' && a.path === b.path : b.kind === 'tcp' && a.port === b.port);
