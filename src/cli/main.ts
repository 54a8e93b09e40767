#!/usr/bin/env node
/** The process around the program: streams, Ctrl-C, exit status. */
import { readFileSync } from 'node:fs';
import { catchInterrupts } from './interrupt.js';
import { run } from './program.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

// A reader that went away (`ninelives inspect | head`) is no error; whoever was writing is asked to stop.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.emit('SIGINT');
  });
}

const status = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  environment: process.env,
  version,
  interrupts: catchInterrupts,
});

process.exitCode = status;
// Nothing should be left that keeps the process alive. If something is, it does not keep the user waiting.
setTimeout(() => process.exit(status), 500).unref();
