/** The table of fault types. A new one is a file in `faults/`, a row here, a test, and a line in docs/reference/faults.md. */
import { z } from 'zod';
import { code } from './faults/code.js';
import { failstop } from './faults/failstop.js';
import { hang } from './faults/hang.js';
import { lockLeak } from './faults/lock-leak.js';
import { memory } from './faults/memory.js';
import { register } from './faults/register.js';
import { softwareBug } from './faults/software-bug.js';
import type { FaultModel } from './model.js';

/** In the order in which they are shown to people. */
export const FAULTS: readonly FaultModel[] = [failstop, register, code, memory, hang, lockLeak, softwareBug];

/** What stands under `fault:` in a campaign file. */
export const faultSchema = z.discriminatedUnion('type', [
  failstop.options,
  register.options,
  code.options,
  memory.options,
  hang.options,
  lockLeak.options,
  softwareBug.options,
]);

export type FaultSpec = z.output<typeof faultSchema>;
