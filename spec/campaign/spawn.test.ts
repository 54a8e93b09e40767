/** Workers as processes: what becomes of them when they or their supervisor end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { FromWorker } from '../../src/campaign/protocol.js';
import { forkWorker, type WorkerLink } from '../../src/campaign/spawn.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ninelives-spawn-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const program = (text: string): string => {
  const path = join(dir, 'worker.mjs');
  writeFileSync(path, text);
  return path;
};

function isGone(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.startsWith('Z');
  } catch {
    return true;
  }
}

const ended = (link: WorkerLink): Promise<string> => new Promise((resolve) => (link.onExit = resolve));

describe('a worker process', () => {
  it('hears and is heard', async () => {
    const link = forkWorker(
      program(
        `process.on('message', (m) => { process.send({ kind: 'warning', text: m.kind }); setImmediate(() => process.disconnect()); });`,
      ),
    );
    const heard = new Promise<FromWorker>((resolve) => (link.onMessage = resolve));
    const end = ended(link);
    link.send({ kind: 'end' });
    expect(await heard).toEqual({ kind: 'warning', text: 'end' });
    expect(await end).toBe('it ended with status 0');
    link.send({ kind: 'end' });
  });

  it('is told of with its last words when it dies', async () => {
    expect(await ended(forkWorker(program('throw new Error("no box for you")')))).toMatch(
      /status 1; its last words: [\s\S]*no box for you/,
    );
    const link = forkWorker(program('setInterval(() => {}, 1000)'));
    const end = ended(link);
    link.kill();
    expect(await end).toBe('it was killed by SIGKILL');
  });

  it('dies with its supervisor, also when that is killed and the worker is too busy to notice', async () => {
    const busy = program('process.send({ kind: "warning", text: String(process.pid) }); for (;;);');
    const supervisor = program2(
      `import { fork } from 'node:child_process';
       const child = fork(${JSON.stringify(busy)}, [], {
         execPath: 'setpriv', execArgv: ['--pdeathsig', 'KILL', '--', process.execPath], detached: true });
       child.on('message', (m) => console.log(m.text));`,
    );
    const pid = await firstLine(supervisor);
    supervisor.kill('SIGKILL');
    await vi.waitFor(() => expect(isGone(Number(pid))).toBe(true), 3000);
  });
});

/** A supervisor of its own process, which starts a worker in the way in which `forkWorker` does. */
function program2(text: string): ChildProcess {
  const path = join(dir, 'supervisor.mjs');
  writeFileSync(path, text);
  return spawn(process.execPath, [path], { stdio: ['ignore', 'pipe', 'inherit'] });
}

const firstLine = (child: ChildProcess): Promise<string> =>
  new Promise((resolve) => child.stdout!.once('data', (data: Buffer) => resolve(data.toString().trim())));
