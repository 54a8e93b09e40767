/**
 * CPUs that have to leave what they do although they are not in Xen: those whose descriptor tables are damaged. One of them may
 * have shut down with a triple fault, in its guest as well as in Xen, and must deliver something before it goes on
 * (`src/recover/microreset/lost-stacks.ts`), which it can only do in Xen. For the others it is no loss. And those that are deaf: outside
 * Xen no handler is under way, so an interrupt in service that no guest has in its hands was never acknowledged, and only the CPU can.
 *
 * And where no CPU is in Xen at all, those that wait in their idle loop, which have nothing to lose: somebody has to make the
 * calls that wake vCPUs, and they have to choose anew what they run.
 */
import { asFrame, type CpuState, type Situation } from './cpus.js';
import { ifReadable } from './damage.js';
import { unacknowledged } from './interrupts.js';
import type { Xen } from './xen.js';

export function takenOut(xen: Xen, situation: Situation, damaged: ReadonlySet<number>): Situation {
  const has = (cpu: number): boolean =>
    damaged.has(cpu) || (ifReadable(() => unacknowledged(xen, cpu)) ?? []).length > 0;
  const cpus = situation.cpus.map((state) => (state.where !== 'xen' && has(state.cpu) ? inXen(state) : state));
  if (cpus.some(({ where }) => where === 'xen')) return { ...situation, cpus };
  return { ...situation, cpus: cpus.map((state) => (state.where === 'halted' ? inXen(state) : state)) };
}

function inXen(state: CpuState): CpuState {
  const { where, current, registers } = state;
  if (where === 'halted') return { ...state, where: 'xen' };
  // An HVM guest uses tables of its own; an interrupt makes it leave first, and is delivered in Xen.
  if (where !== 'guest' || current.domain.kind !== 'pv') return state;
  return { ...state, where: 'xen', guestTrap: asFrame(registers) };
}
