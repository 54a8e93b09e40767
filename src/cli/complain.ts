/** How an error of ours leaves the CLI: two lines for people or one object for programs, and an exit status. */
import { ERROR_CODES, EXIT, isNinelivesError, NinelivesError } from '../common/errors.js';
import type { Paint } from '../report/style.js';

/** Whatever was thrown, as one of ours. An abort is Ctrl-C; anything unknown is a defect of ninelives. */
export function asNinelivesError(error: unknown): NinelivesError {
  if (isNinelivesError(error)) return error;
  if (error instanceof Error) {
    if (error.name === 'AbortError') {
      return isNinelivesError(error.cause) ? error.cause : new NinelivesError('NL_INTERRUPTED', 'interrupted');
    }
    const code = systemErrors[(error as NodeJS.ErrnoException).code ?? ''];
    if (code !== undefined) return new NinelivesError(code.code, error.message, { fix: code.fix, cause: error });
    return new NinelivesError('NL_INTERNAL', error.message, {
      fix: 'this is a defect of ninelives: please report it with the output of the same command under NL_DEBUG=1',
      cause: error,
    });
  }
  return new NinelivesError('NL_INTERNAL', String(error), { cause: error });
}

/** Errors of the operating system that say enough by themselves when they get as far as the CLI. */
const systemErrors: Readonly<Record<string, { code: keyof typeof ERROR_CODES; fix: string }>> = {
  ENOSPC: { code: 'NL_NO_SPACE', fix: 'free some space there, or choose a smaller box with --memory' },
  ENOENT: { code: 'NL_USAGE', fix: 'check the path' },
  EISDIR: { code: 'NL_USAGE', fix: 'give a file, not a folder' },
  EACCES: { code: 'NL_USAGE', fix: 'check the permissions of that path' },
  EADDRINUSE: { code: 'NL_ADDRESS_IN_USE', fix: 'stop what uses it: "ninelives status" shows your own boxes' },
};

export function errorLines(error: NinelivesError, colors: Paint): string[] {
  const lines = [`${colors.red(`error ${error.code}:`)} ${error.message}`];
  if (error.fix !== undefined) lines.push(`${colors.bold('fix:')} ${error.fix}`);
  return lines;
}

export function errorObject(error: NinelivesError): { error: { code: string; message: string; fix?: string } } {
  const { code, message, fix } = error;
  return { error: fix === undefined ? { code, message } : { code, message, fix } };
}

/** A usage error with what was probably meant. */
export function usage(message: string, fix: string): NinelivesError {
  return new NinelivesError('NL_USAGE', message, { fix });
}

export const statusOf = (error: NinelivesError): number => ERROR_CODES[error.code] ?? EXIT.internal;
