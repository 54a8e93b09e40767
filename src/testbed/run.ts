/** Runs a program of this machine to its end. */
import { spawn } from 'node:child_process';

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
}

/** Never throws for a program that fails or is missing: status 127 and the reason in `stderr` stand for the latter. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
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
