/**
 * The run log: one line of JSON for each run, appended the moment the run is known.
 *
 * A line is one write, and on the disk (fdatasync) before the run counts as done, so `kill -9` or a crash of the host loses the runs in
 * flight and nothing else. A write that does not fit is taken back. What a crash may leave behind, a last line that is not complete, is
 * cut off when the log is opened again. A line that is damaged is told and left out; its run counts as not done.
 */
import { closeSync, fdatasyncSync, fstatSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { NinelivesError } from '../common/errors.js';
import { runName } from './plan.js';
import { type RunRecord, runRecordSchema } from './record.js';

/** A piece of the log that cannot be used. */
export interface Damage {
  /** From 1. */
  readonly line: number;
  /** Of its first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
  /** `torn`: the last line, not complete. `damaged`: any other. */
  readonly kind: 'torn' | 'damaged';
  readonly why: string;
}

export interface ParsedLog {
  /** In the order in which they were written. Of a run that was done more than once the last record only. */
  readonly records: readonly RunRecord[];
  readonly damage: readonly Damage[];
  /** Length up to the last line that is complete. */
  readonly completeBytes: number;
}

const NEWLINE = 0x0a;

/** Reads a log, whatever it contains. Pure. */
export function parseLog(bytes: Uint8Array): ParsedLog {
  const latest = new Map<string, RunRecord>();
  const damage: Damage[] = [];
  let start = 0;
  let completeBytes = 0;
  for (let line = 1; start < bytes.length; line++) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline < 0 ? bytes.length : newline;
    const read = parseLine(Buffer.from(bytes.subarray(start, end)).toString('utf8'));
    const isTorn = newline < 0;
    if (isTorn) {
      // Without its newline nobody knows whether it is complete: a number at its end may lack digits.
      damage.push({ line, offset: start, bytes: end - start, kind: 'torn', why: 'the line is not complete' });
      break;
    }
    if ('why' in read) damage.push({ line, offset: start, bytes: end - start, kind: 'damaged', why: read.why });
    else {
      const name = runName(read.record);
      latest.delete(name);
      latest.set(name, read.record);
    }
    start = end + 1;
    completeBytes = start;
  }
  return { records: [...latest.values()], damage, completeBytes };
}

function parseLine(text: string): { record: RunRecord } | { why: string } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { why: error instanceof Error ? error.message : String(error) };
  }
  const parsed = runRecordSchema.safeParse(value);
  if (parsed.success) return { record: parsed.data };
  const [issue] = parsed.error.issues;
  return { why: issue === undefined ? 'not a record' : `${issue.path.join('.') || 'record'}: ${issue.message}` };
}

/** The calls that write; tests put a full disk here. */
export interface Disk {
  write(fd: number, bytes: Uint8Array): number;
  sync(fd: number): void;
}

const DISK: Disk = { write: (fd, bytes) => writeSync(fd, bytes, 0, bytes.length), sync: (fd) => fdatasyncSync(fd) };

/** The log of a campaign that is running; one at a time, see `lock.ts`. */
export class RunLog implements Disposable {
  readonly #fd: number;
  readonly #path: string;
  readonly #disk: Disk;

  private constructor(path: string, fd: number, disk: Disk) {
    this.#path = path;
    this.#fd = fd;
    this.#disk = disk;
  }

  /** Opens the log for appending, made if it is not there, and cuts off a last line that is not complete. */
  static open(path: string, disk: Disk = DISK): RunLog {
    const fd = openSync(path, 'a+', 0o644);
    const { completeBytes } = parseLog(readFileSync(path));
    if (completeBytes < fstatSync(fd).size) ftruncateSync(fd, completeBytes);
    return new RunLog(path, fd, disk);
  }

  /** @throws NL_NO_SPACE; the log is then as it was before */
  append(record: RunRecord): void {
    const bytes = Buffer.from(`${JSON.stringify(record)}\n`);
    const before = fstatSync(this.#fd).size;
    try {
      for (let done = 0; done < bytes.length; ) done += this.#disk.write(this.#fd, bytes.subarray(done));
      this.#disk.sync(this.#fd);
    } catch (cause) {
      ftruncateSync(this.#fd, before);
      const { code } = cause as NodeJS.ErrnoException;
      if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EFBIG') throw cause;
      throw new NinelivesError(
        'NL_NO_SPACE',
        `run ${runName(record)} cannot be written to ${this.#path}: no space left`,
        {
          fix: 'free some space there; "ninelives campaign resume" then goes on with that run',
          cause,
        },
      );
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
