/** Workers as child processes. */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { FromWorker, ToWorker } from './protocol.js';

/** A worker as its supervisor sees it. */
export interface WorkerLink {
  readonly pid: number | undefined;
  send(message: ToWorker): void;
  onMessage: (message: FromWorker) => void;
  /** Called once, when the process has ended, with how it did. */
  onExit: (how: string) => void;
  /** Ends it at once. */
  kill(): void;
}

export type SpawnWorker = () => WorkerLink;

const PROGRAM = fileURLToPath(new URL('./worker-main.js', import.meta.url));

/**
 * A worker gets a session of its own, so that Ctrl-C at our terminal reaches only us. When we end, the kernel kills it
 * (`setpriv --pdeathsig`, as for QEMU), and that in turn kills its QEMU: no part of the chain has to be alive for the next to end.
 * @param program tests put their own here
 */
export function forkWorker(program: string = PROGRAM): WorkerLink {
  const child = fork(program, [], {
    execPath: 'setpriv',
    execArgv: ['--pdeathsig', 'KILL', '--', process.execPath, '--enable-source-maps'],
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let words = '';
  child.stderr?.on('data', (data: Buffer) => {
    words = (words + data.toString('utf8')).slice(-2000);
  });
  const link: WorkerLink = {
    pid: child.pid,
    send: (message) => {
      // A worker that has just ended is told of by `exit`.
      if (child.connected) child.send(message, () => {});
    },
    onMessage: () => {},
    onExit: () => {},
    kill: () => void child.kill('SIGKILL'),
  };
  child.on('message', (message) => link.onMessage(message as FromWorker));
  let ended = false;
  const exit = (how: string): void => {
    if (ended) return;
    ended = true;
    link.onExit(words.trim() === '' ? how : `${how}; its last words: ${words.trim()}`);
  };
  child.once('error', (error) => exit(`it could not be started: ${error.message}`));
  child.once('close', (status, signal) =>
    exit(signal === null ? `it ended with status ${status}` : `it was killed by ${signal}`),
  );
  return link;
}
