/** What supervisor and workers tell each other, as JSON over the channel that Node makes for a child process. */
import type { ErrorCode } from '../common/errors.js';
import type { Versions } from './folder.js';
import type { RunRecord } from './record.js';
import type { RunOrder } from './run-record.js';

export type ToWorker =
  /** Once, first: open the box of the campaign in this folder. */
  | { readonly kind: 'open'; readonly dir: string }
  | { readonly kind: 'run'; readonly order: RunOrder }
  /** End the box and yourself. */
  | { readonly kind: 'end' };

export type FromWorker =
  | { readonly kind: 'progress'; readonly step: boolean; readonly text: string }
  | { readonly kind: 'warning'; readonly text: string }
  | { readonly kind: 'ready'; readonly versions: Versions }
  | { readonly kind: 'done'; readonly record: RunRecord }
  /** The box could not be opened; the worker ends. */
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string; readonly fix: string | undefined };
