/** One injection: lets the trigger find the moment, and makes the fault there. */
import type { Xen } from '../xen/xen.js';
import { Control, type ControlOptions } from './control.js';
import type { Injection, InjectionTarget, Planned } from './model.js';
import { faultNamed, triggerNamed } from './plan.js';
import { pointOf } from './site.js';

export interface InjectOptions extends ControlOptions {
  /** Looks at the frozen machine when the moment has come. What it returns is why no fault is made after all. */
  readonly objection?: (xen: Xen) => string | undefined;
}

/**
 * @param target running or frozen; frozen afterwards. Breakpoints of others, such as a guard's, stay set
 * @throws NL_USAGE for a plan that is none; what the signal was aborted with; as the machine's link does
 */
export async function inject(target: InjectionTarget, planned: Planned, options: InjectOptions): Promise<Injection> {
  const control = new Control(target.machine, options);
  const trigger = triggerNamed(planned.trigger);
  const fault = faultNamed(planned.fault);
  const reached = await trigger.reach(target, control, planned.triggerChoice);
  if (reached.kind === 'not-reached') return reached;
  const objection = options.objection?.(reached.site.xen);
  if (objection !== undefined) return { kind: 'not-reached', why: objection };
  const applied = await fault.apply(reached.site, planned.faultChoice);
  if (applied.kind === 'not-reached') return applied;
  return { kind: 'injected', point: pointOf(applied.site ?? reached.site, reached), applied };
}
