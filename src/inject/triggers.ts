/** The table of triggers. A new one is a file in `triggers/`, a row here, a test, and a line in docs/reference/faults.md. */
import { z } from 'zod';
import type { TriggerModel } from './model.js';
import { functionTrigger } from './triggers/function.js';
import { subsystem } from './triggers/subsystem.js';
import { timer } from './triggers/timer.js';

export const TRIGGERS: readonly TriggerModel[] = [timer, functionTrigger, subsystem];

/** What stands under `trigger:` in a campaign file. */
export const triggerSchema = z.discriminatedUnion('type', [timer.options, functionTrigger.options, subsystem.options]);

export type TriggerSpec = z.output<typeof triggerSchema>;
