/**
 * From a seed to the choices of an injection. The trigger draws from the generator first and the fault after it, always in the same
 * order, so the same seed and the same specification give the same plan (docs/design/injection.md).
 */
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import type { Random } from '../common/random.js';
import { FAULTS, type FaultSpec } from './faults.js';
import type { FaultModel, Planned, TriggerModel } from './model.js';
import { TRIGGERS, type TriggerSpec } from './triggers.js';

const choice = z.record(z.string(), z.json());

/** A plan as it stands in a run log. */
export const plannedSchema = z.object({
  /** The fault's name, such as `register`. */
  fault: z.string(),
  faultChoice: choice,
  /** The trigger's name, such as `timer`. */
  trigger: z.string(),
  triggerChoice: choice,
});

/** Makes all choices of one injection. Pure but for what it draws from `random`. */
export function planInjection(random: Random, fault: FaultSpec, trigger: TriggerSpec): Planned {
  const triggerChoice = triggerNamed(trigger.type).choose(random, trigger);
  const faultChoice = faultNamed(fault.type).choose(random, fault);
  return { fault: fault.type, faultChoice, trigger: trigger.type, triggerChoice };
}

/** @throws NL_USAGE when there is none of this name */
export const faultNamed = (name: string): FaultModel => named(FAULTS, 'fault', name);

/** @throws NL_USAGE when there is none of this name */
export const triggerNamed = (name: string): TriggerModel => named(TRIGGERS, 'trigger', name);

function named<T extends { readonly name: string }>(table: readonly T[], kind: string, name: string): T {
  const found = table.find((row) => row.name === name);
  if (found !== undefined) return found;
  throw new NinelivesError('NL_USAGE', `there is no ${kind} "${name}"`, {
    fix: `use one of: ${table.map((row) => row.name).join(', ')}`,
  });
}
