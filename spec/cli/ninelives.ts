/** The command line as a whole, with its streams caught. */
import { run } from '../../src/cli/program.js';

export async function ninelives(...argv: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  let [stdout, stderr] = ['', ''];
  const status = await run(argv, {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    environment: {},
    version: '1.2.3',
    interrupts: () => ({ signal: new AbortController().signal, [Symbol.dispose]() {} }),
  });
  return { status, stdout, stderr };
}
