/** A single injection into a box that somebody looks at: soon, and an error where it cannot be made. */
import { NinelivesError } from '../common/errors.js';
import type { Random } from '../common/random.js';
import { type FaultSpec, faultSchema } from './faults.js';
import { inject } from './inject.js';
import type { Injection, InjectionTarget, Planned } from './model.js';
import { planInjection } from './plan.js';
import { type TriggerSpec, triggerSchema } from './triggers.js';

export type Injected = Extract<Injection, { kind: 'injected' }>;

export interface OnceOptions {
  readonly signal: AbortSignal;
  /** Default: failstop. */
  readonly fault?: FaultSpec;
  /** Default: within a second, wherever a CPU is in Xen. */
  readonly trigger?: TriggerSpec;
}

export const FAILSTOP: FaultSpec = faultSchema.parse({ type: 'failstop' });
export const SOON: TriggerSpec = triggerSchema.parse({ type: 'timer', delayMs: [50, 600], instructions: [0, 1000] });

/**
 * Plans and injects one fault. The machine stands still afterwards, broken: `resume()` lets the failure happen.
 * @throws NL_TIMEOUT when the point was not reached, and as `inject`
 */
export async function injectOnce(target: InjectionTarget, random: Random, options: OnceOptions): Promise<Injected> {
  const { fault = FAILSTOP, trigger = SOON, signal } = options;
  return injectPlanned(target, planInjection(random, fault, trigger), signal);
}

/** The same for a plan that was made before. */
export async function injectPlanned(target: InjectionTarget, planned: Planned, signal: AbortSignal): Promise<Injected> {
  const injection = await inject(target, planned, { signal });
  if (injection.kind === 'injected') return injection;
  throw new NinelivesError('NL_TIMEOUT', `no fault was injected: ${injection.why}`, {
    fix: 'Give the guests more work, or choose another trigger.',
  });
}
