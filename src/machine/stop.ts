/** Why a machine stands still, and what else happens to it. */
import type { QmpEvent } from './qmp.js';
import type { StopReply } from './rsp/session.js';

/** A stop of the whole machine. `atMs`: when we learned of it, performance.now(). */
export type Stop = { readonly atMs: number } & (
  | {
      readonly kind: 'breakpoint';
      /** The CPU that hit it, from 0. After a single step this is the CPU that was stepped. */
      readonly cpu: number;
      /** Its program counter. */
      readonly address?: bigint;
    }
  /** We asked for it, or someone else did (QMP `stop`). */
  | { readonly kind: 'paused' }
  /** The guest switched the machine off or QEMU was told to; it cannot be resumed. */
  | { readonly kind: 'shutdown'; readonly reason: string | undefined }
  /** The guest reset the machine (triple fault, reboot) and QEMU was started with `-action reboot=shutdown`. */
  | { readonly kind: 'reset'; readonly reason: string | undefined }
  | { readonly kind: 'io-error' }
  | { readonly kind: 'watchdog' }
  | { readonly kind: 'internal-error' }
  | { readonly kind: 'other'; readonly text: string }
);

/** What QEMU tells beside stops. Also sent when it does not stop the machine. `atMs`: performance.now(). */
export type MachineEvent = { readonly atMs: number } & (
  | { readonly kind: 'reset'; readonly reason: string | undefined }
  | { readonly kind: 'shutdown'; readonly reason: string | undefined }
  | { readonly kind: 'guest-panicked' }
  | { readonly kind: 'watchdog' }
  | { readonly kind: 'ended'; readonly error: Error }
);

/** A stop reply of the stub as a stop of the machine. `shutdownReason`: of the last SHUTDOWN event of QMP. */
export function toStop(reply: StopReply, atMs: number, shutdownReason: string | undefined): Stop {
  switch (reply.kind) {
    case 'breakpoint':
      return { kind: 'breakpoint', cpu: reply.cpu, atMs };
    case 'shutdown':
      return shutdownReason === 'guest-reset'
        ? { kind: 'reset', reason: shutdownReason, atMs }
        : { kind: 'shutdown', reason: shutdownReason, atMs };
    case 'exited':
      return { kind: 'shutdown', reason: 'QEMU ended', atMs };
    case 'other':
      return { kind: 'other', text: reply.text, atMs };
    default:
      return { kind: reply.kind, atMs };
  }
}

/** Whether the machine can go on from this stop without a reset. */
export const canResume = (stop: Stop): boolean =>
  stop.kind !== 'shutdown' && stop.kind !== 'reset' && stop.kind !== 'internal-error';

/** An event of QMP as one of the machine; `undefined` where it is none. */
export function toMachineEvent(event: QmpEvent): MachineEvent | undefined {
  const reason = typeof event.data.reason === 'string' ? event.data.reason : undefined;
  switch (event.name) {
    case 'RESET':
      return { kind: 'reset', reason, atMs: event.atMs };
    case 'SHUTDOWN':
      return { kind: 'shutdown', reason, atMs: event.atMs };
    case 'GUEST_PANICKED':
      return { kind: 'guest-panicked', atMs: event.atMs };
    case 'WATCHDOG':
      return { kind: 'watchdog', atMs: event.atMs };
    default:
      return undefined;
  }
}
