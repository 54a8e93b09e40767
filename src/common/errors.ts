/**
 * "We failed": every error of our own has a stable code, a message that says what to do, and an exit status.
 * "The target failed" is never one of these; it is data (see `src/detect/failure.ts`).
 *
 * `docs/reference/errors.md` documents each code; `spec/common/errors.test.ts` checks that none is missing there.
 */

/** Exit statuses of the CLI. 0: all held. 1: the target failed (the answer is "no"). From 2 on: we failed. */
export const EXIT = {
  ok: 0,
  targetFailed: 1,
  usage: 2,
  environment: 3,
  link: 4,
  mismatch: 5,
  internal: 70,
  interrupted: 130,
} as const;

type ExitStatus = (typeof EXIT)[keyof typeof EXIT];

/** Every stable error code with its exit status. Codes are never renamed or reused. */
export const ERROR_CODES = {
  /** A command line, option or file given by the user is not valid. */
  NL_USAGE: EXIT.usage,
  /** A needed Debian package is missing and cannot be installed (no root, no network). */
  NL_PACKAGE_MISSING: EXIT.environment,
  /** QEMU is not installed or cannot be started. */
  NL_QEMU_MISSING: EXIT.environment,
  /** QEMU ended before or while it was needed. */
  NL_QEMU_EXITED: EXIT.link,
  /** QEMU is older than the oldest version that works. */
  NL_QEMU_TOO_OLD: EXIT.environment,
  /** No space for the box's memory (/dev/shm) or for files in the cache folder. */
  NL_NO_SPACE: EXIT.environment,
  /** A port or socket path that the box needs is in use. */
  NL_ADDRESS_IN_USE: EXIT.environment,
  /** The QMP socket cannot be reached or was closed in the middle. */
  NL_QMP_LOST: EXIT.link,
  /** QMP answered a command with an error. */
  NL_QMP_ERROR: EXIT.link,
  /** The debugger stub cannot be reached, or its connection was closed in the middle. */
  NL_STUB_LOST: EXIT.link,
  /** The debugger stub answered with an error, or with something we cannot read. */
  NL_STUB_ERROR: EXIT.link,
  /** Another debugger holds the stub. */
  NL_STUB_BUSY: EXIT.link,
  /** A wait on the box (boot, stop, marker on a console) ran out of time. */
  NL_TIMEOUT: EXIT.link,
  /** The box's RAM can be reached neither as a shared file nor through its process. */
  NL_RAM_UNREACHABLE: EXIT.environment,
  /** No Xen was found in the box's memory. */
  NL_XEN_NOT_FOUND: EXIT.mismatch,
  /** Xen was found, but there is no profile for its build-id. */
  NL_PROFILE_UNKNOWN: EXIT.mismatch,
  /** The profile does not describe the live box: an invariant does not hold. */
  NL_PROFILE_MISMATCH: EXIT.mismatch,
  /** The symbol file does not belong to this Xen (its build-id differs). */
  NL_SYMBOLS_MISMATCH: EXIT.mismatch,
  /** An ELF or DWARF file is truncated, damaged or of an unsupported kind. */
  NL_ELF_INVALID: EXIT.usage,
  /** A capsule file is damaged or of an unknown version. */
  NL_CAPSULE_INVALID: EXIT.usage,
  /** A virtual address that has to be mapped is not. */
  NL_UNMAPPED: EXIT.mismatch,
  /** The box did not boot. */
  NL_BOOT_FAILED: EXIT.environment,
  /** No box is running under this name. */
  NL_NO_BOX: EXIT.usage,
  /** A box is already running under this name. */
  NL_BOX_RUNNING: EXIT.usage,
  /** A campaign file, or a folder of a campaign, cannot be used. */
  NL_CAMPAIGN_INVALID: EXIT.usage,
  /** Another process writes to this campaign's folder. */
  NL_CAMPAIGN_BUSY: EXIT.usage,
  /** A campaign is not, or not any more, the one that was begun: other runs, other versions. */
  NL_CAMPAIGN_DIFFERS: EXIT.mismatch,
  /** A worker process of a campaign ended, or did not answer. */
  NL_WORKER_LOST: EXIT.link,
  /** A campaign ran to its end, and some of its runs have no result because we failed. */
  NL_RUNS_LOST: EXIT.link,
  /** The user pressed Ctrl-C. */
  NL_INTERRUPTED: EXIT.interrupted,
  /** A defect in ninelives itself. */
  NL_INTERNAL: EXIT.internal,
} as const satisfies Record<string, ExitStatus>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface ErrorDetail {
  /** What the reader can do about it; one sentence, imperative. */
  readonly fix?: string;
  readonly cause?: unknown;
}

/** An error of our own. Carries a code for programs and a message plus a fix for people. */
export class NinelivesError extends Error {
  readonly code: ErrorCode;
  readonly fix: string | undefined;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = 'NinelivesError';
    this.code = code;
    this.fix = detail.fix;
  }

  get exitStatus(): ExitStatus {
    return ERROR_CODES[this.code];
  }
}

/** Whether `error` is one of ours, optionally with exactly this code. */
export function isNinelivesError(error: unknown, code?: ErrorCode): error is NinelivesError {
  return error instanceof NinelivesError && (code === undefined || error.code === code);
}

/** For the default arm of an exhaustive switch: a compile error when a case is missing. */
export function unreachable(value: never): never {
  throw new NinelivesError('NL_INTERNAL', `unhandled case: ${JSON.stringify(value)}`);
}
