/** Seeing the frozen machine as an injector needs it: which CPU is where, and a site as a point for the record. */
import { readSituation } from '../xen/cpus.js';
import { listDomains } from '../xen/domains.js';
import type { Control } from './control.js';
import type { InjectionPoint, InjectionTarget, Reached, Site } from './model.js';

/** All CPUs of the frozen machine as sites, whether or not they are in Xen. */
export async function sitesNow(target: InjectionTarget, control: Control): Promise<readonly Site[]> {
  const xen = target.at(await target.machine.capture());
  return readSituation(xen, target.facts, listDomains(xen)).cpus.map((state) => ({ target, control, xen, state }));
}

/** One CPU of the frozen machine as a site. */
export async function siteOf(target: InjectionTarget, control: Control, cpu: number): Promise<Site> {
  return (await sitesNow(target, control))[cpu]!;
}

/** Whether a CPU executes Xen's own code: not a guest's, and not waiting for an interrupt. */
export const executesXen = ({ state, xen }: Site): boolean =>
  state.where === 'xen' && xen.profile.isText(state.registers.rip);

/** A site as it stands in a record. */
export function pointOf({ state, xen }: Site, { steps, exact }: Pick<Reached, 'steps' | 'exact'>): InjectionPoint {
  return {
    cpu: state.cpu,
    vcpu: state.current.name,
    at: xen.profile.describe(state.registers.rip),
    ...('name' in state.hypercall ? { hypercall: state.hypercall.name } : {}),
    backtrace: state.backtrace.map((entry) => entry.text),
    steps,
    ...(exact ? {} : { approximate: true }),
  };
}
