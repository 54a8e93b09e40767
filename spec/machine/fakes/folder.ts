/** A private folder for the sockets and files of a test, and how to expect an error of ours. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ErrorCode, isNinelivesError, type NinelivesError } from '../../../src/common/errors.js';

export class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'nl-test-'));

  file(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** The error that `work` fails with, which has to be ours and of this code. */
export async function failure(work: Promise<unknown> | (() => unknown), code: ErrorCode): Promise<NinelivesError> {
  try {
    await (typeof work === 'function' ? work() : work);
  } catch (error) {
    if (isNinelivesError(error, code)) return error;
    throw error;
  }
  throw new Error(`expected ${code}, but nothing failed`);
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
