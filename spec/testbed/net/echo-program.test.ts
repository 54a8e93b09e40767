import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { echoProgram } from '../../../src/testbed/net/echo-program.js';

/** It is a Linux program, so it is tried where it was made. */
describe.runIf(process.platform === 'linux' && process.arch === 'x64')('the echo service', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ninelives-echo-'));
  let running: ChildProcess | undefined;
  afterEach(() => {
    running?.kill();
    rmSync(folder, { recursive: true, force: true });
  });

  it('sends back what it gets, to whoever sent it', async () => {
    const port = await freePort();
    const path = join(folder, 'udp-echo');
    writeFileSync(path, echoProgram(port), { mode: 0o755 });
    running = spawn(path);
    for (const text of ['', 'one', 'x'.repeat(1400)]) expect(await ask(port, text)).toBe(text);
    const second = spawn(path);
    // The port is taken.
    expect(await new Promise((resolve) => second.once('exit', resolve))).toBe(2);
  });
});

async function freePort(): Promise<number> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  socket.close();
  return port;
}

/** Asks again until there is an answer: the service may not have started yet. */
async function ask(port: number, text: string): Promise<string> {
  const socket: Socket = createSocket('udp4');
  try {
    const answer = new Promise<string>((resolve) => socket.once('message', (data) => resolve(data.toString())));
    const timer = setInterval(() => socket.send(text, port, '127.0.0.1'), 20);
    return await answer.finally(() => clearInterval(timer));
  } finally {
    socket.close();
  }
}
