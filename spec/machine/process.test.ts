import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseAddress, requireVersion } from '../../src/machine/attach.js';
import { isGone } from '../../src/machine/proc.js';
import { checkBinary, makeHome, removeHome, requireSpace, startQemu } from '../../src/machine/process.js';
import { argumentsHash, type MachineSpec, qemuArguments } from '../../src/machine/spec.js';
import { Folder, failure } from './fakes/folder.js';

let folder: Folder;

beforeEach(() => {
  folder = new Folder();
});

afterEach(() => folder[Symbol.dispose]());

/** A program that takes QEMU's place. */
function program(script: string): string {
  const path = folder.file('qemu');
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

const spec = (more: Partial<MachineSpec> = {}): MachineSpec => ({
  cpus: 1,
  memoryMiB: 1,
  args: [],
  lifetime: 'ours',
  runtimeDir: folder.file('run'),
  ...more,
});

describe('QEMU as a process', () => {
  it('says that QEMU is missing', async () => {
    const error = await failure(checkBinary(folder.file('none')), 'NL_QEMU_MISSING');
    expect(error.fix).toContain('qemu-system-x86');
  });

  it('says that QEMU is too old', async () => {
    await failure(checkBinary(program('echo "QEMU emulator version 6.2.0 (Debian)"')), 'NL_QEMU_TOO_OLD');
    await failure(() => requireVersion({ major: 7, minor: 1 }), 'NL_QEMU_TOO_OLD');
    requireVersion({ major: 7, minor: 2 });
    requireVersion({ major: 10, minor: 0 });
  });

  it('gives the version with the distribution', async () => {
    expect(await checkBinary(program('echo "QEMU emulator version 7.2.22 (Debian 1:7.2)"'))).toBe(
      '7.2.22 (Debian 1:7.2)',
    );
  });

  it('says before the start that memory does not fit', async () => {
    const error = await failure(() => requireSpace(2 ** 52), 'NL_NO_SPACE');
    expect(error.message).toMatch(/\/dev\/shm has \d+ MiB free/);
    await failure(makeHome(spec({ memoryMiB: 2 ** 30 })), 'NL_NO_SPACE');
  });

  it('says that a socket path is in use, and takes a stale one away', async () => {
    const { home } = await makeHome(spec());
    writeFileSync(folder.file('run/qmp.sock'), '');
    await makeHome(spec());
    expect(existsSync(folder.file('run/qmp.sock'))).toBe(false);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(folder.file('run/qmp.sock'), resolve));
    await failure(makeHome(spec()), 'NL_ADDRESS_IN_USE');
    server.close();
    removeHome(home);
  });

  it('passes on the last words of a QEMU that ends at its start', async () => {
    const binary = program('echo "could not load kernel: no such file" >&2; exit 1');
    const { home, ramFd } = await makeHome(spec({ binary }));
    const error = await failure(startQemu(spec({ binary }), home, ramFd, 'reset'), 'NL_QEMU_EXITED');
    expect(error.message).toContain('could not load kernel');
    expect(existsSync(home.ramPath)).toBe(false);
  });

  it('knows a port that is in use from the last words', async () => {
    const binary = program('echo "Could not set up host forwarding rule tcp::2222-:22" >&2; exit 1');
    const { home, ramFd } = await makeHome(spec({ binary }));
    await failure(startQemu(spec({ binary }), home, ramFd, 'reset'), 'NL_ADDRESS_IN_USE');
  });

  it('knows which processes are gone', () => {
    expect(isGone(process.pid)).toBe(false);
    expect(isGone(2 ** 30)).toBe(true);
  });
});

describe('command line', () => {
  it('doubles commas in paths, which QEMU would read as options', () => {
    const args = qemuArguments(spec(), '/run/a,b', '/dev/shm/x', 'reset');
    expect(args).toContain('unix:/run/a,,b/qmp.sock,server=on,wait=off');
  });

  it('waits for device state when it is to come from a snapshot', () => {
    expect(qemuArguments(spec(), '/r', '/s', 'incoming').join(' ')).toContain('-incoming defer');
    expect(qemuArguments(spec(), '/r', '/s', 'reset').join(' ')).not.toContain('-incoming');
  });

  it('hashes what the guest sees, and not where it runs', () => {
    expect(argumentsHash(spec())).toBe(argumentsHash(spec({ runtimeDir: '/else', lifetime: 'detached' })));
    expect(argumentsHash(spec())).not.toBe(argumentsHash(spec({ args: ['-cpu', 'max'] })));
  });
});

describe('addresses of a stub', () => {
  it.each([
    ['/run/gdb.sock', { kind: 'unix', path: '/run/gdb.sock' }],
    ['unix:/run/gdb.sock', { kind: 'unix', path: '/run/gdb.sock' }],
    ['localhost:1234', { kind: 'tcp', host: 'localhost', port: 1234 }],
    [':1234', { kind: 'tcp', host: '127.0.0.1', port: 1234 }],
    ['tcp::1234', { kind: 'tcp', host: '127.0.0.1', port: 1234 }],
  ])('%s', (text, address) => {
    expect(parseAddress(text)).toEqual(address);
  });
});
