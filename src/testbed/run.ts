/** Runs a program of this machine to its end. */
import { type ChildProcess, spawn } from 'node:child_process';

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Called with each line of standard output, as it comes. */
  readonly onLine?: (line: string) => void;
  /** Ends the program, and what it has started, when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Calls `end` with a running child when the signal is aborted.
 * @param endWith SIGINT for apt, which then ends at once where it downloads, but lets dpkg finish what it has begun
 */
function endOnAbort(child: ChildProcess, signal: AbortSignal | undefined, endWith: NodeJS.Signals): void {
  const end = (): void => {
    if (child.pid === undefined) return;
    try {
      process.kill(endWith === 'SIGINT' ? child.pid : -child.pid, endWith);
    } catch {} // It has ended, or is root's: then it gets the terminal's Ctrl-C.
  };
  if (signal?.aborted) end();
  signal?.addEventListener('abort', end, { once: true });
  child.once('close', () => signal?.removeEventListener('abort', end));
}

/**
 * A program that fails or is missing is a result: status 127 and the reason in `stderr` stand for the latter.
 * @throws the signal's reason, once the program has ended
 */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  options.signal?.throwIfAborted();
  const ran = await runToEnd(command, args, options);
  options.signal?.throwIfAborted();
  return ran;
}

function runToEnd(command: string, args: readonly string[], options: RunOptions): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A group of its own, which can be ended as a whole. Not sudo: it is to have a terminal.
      detached: command !== 'sudo',
    });
    endOnAbort(child, options.signal, command.startsWith('apt') || command === 'sudo' ? 'SIGINT' : 'SIGTERM');
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let begun = '';
    child.stdout.on('data', (data: Buffer) => {
      out.push(data);
      if (!options.onLine) return;
      const lines = (begun + data.toString('utf8')).split('\n');
      begun = lines.pop() ?? '';
      for (const line of lines) options.onLine(line);
    });
    child.stderr.on('data', (data: Buffer) => err.push(data));
    child.once('error', (error) => resolve({ status: 127, stdout: '', stderr: error.message }));
    child.once('close', (status) => {
      const stdout = Buffer.concat(out).toString('utf8');
      resolve({ status: status ?? 128, stdout, stderr: Buffer.concat(err).toString('utf8') });
    });
  });
}
