/** Fault injection: what other parts of ninelives use of it. */
export type { ControlOptions } from './control.js';
export { FAULTS, type FaultSpec, faultSchema } from './faults.js';
export { inject } from './inject.js';
export type {
  Applied,
  Choice,
  Injection,
  InjectionPoint,
  InjectionTarget,
  Json,
  NotReached,
  Planned,
} from './model.js';
export { FAILSTOP, type Injected, injectOnce, injectPlanned, type OnceOptions, SOON } from './once.js';
export { planInjection, plannedSchema } from './plan.js';
export { TRIGGERS, type TriggerSpec, triggerSchema } from './triggers.js';
