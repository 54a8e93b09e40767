/**
 * Softirqs are one bit each, cleared before the handler runs: a dropped handler's work is lost. Raising the timer
 * softirq makes Xen look at its timers and program the APIC timer again; raising the schedule softirq makes it choose
 * anew; RCU and tasklets continue with what is on their lists. All of them are harmless when there is nothing to do.
 *
 * Where every CPU runs a guest nobody can tell the others. Their softirqs are raised all the same, and handled when the next
 * interrupt takes them into Xen; in a failure of standing still the guard sends one (`guard/wake.ts`).
 */
import { ifReadable } from '../../xen/damage.js';
import type { Xen } from '../../xen/xen.js';
import type { PlanBuilder } from '../builder.js';
import type { Step } from '../step.js';

/** Raised on every CPU that was in Xen. Not among them: softirqs that expect a state set up for them. */
const RAISED = ['TIMER_SOFTIRQ', 'RCU_SOFTIRQ', 'SCHEDULE_SOFTIRQ', 'TASKLET_SOFTIRQ'] as const;
/** Raised on the others. */
const LOOK_AGAIN = ['TIMER_SOFTIRQ', 'SCHEDULE_SOFTIRQ'] as const;

export const softirqs: Step = {
  name: 'softirqs',
  removes: 'deferred work whose handler was dropped; the APIC timer is programmed again',
  source: 'Zhou and Tamir, DSN 2018: re-arm the APIC timer',
  run({ plan, xen, abandoned, situation }) {
    const raise = (cpu: number, names: readonly string[], reason: string): void => {
      const stat = xen.irqStat(cpu);
      const mask = names.reduce((bits, name) => bits | (1 << xen.profile.enumValue(name)), 0);
      plan.set(stat, '__softirq_pending', stat.num('__softirq_pending') | mask, reason);
    };
    dropUnknown(plan, xen);
    for (const { cpu } of abandoned) raise(cpu, RAISED, `deferred work of CPU ${cpu}`);
    const others = situation.cpus.filter((state) => state.where !== 'xen').map((state) => state.cpu);
    // A waiting CPU wakes only for an interrupt: have one that runs send it.
    const sender = abandoned[0];
    for (const cpu of others) {
      const reason = `CPU ${cpu} looks again`;
      if (sender === undefined) raise(cpu, LOOK_AGAIN, reason);
      else {
        for (const name of LOOK_AGAIN) {
          const args = [BigInt(cpu), BigInt(xen.profile.enumValue(name))];
          plan.call(sender.cpu, 'cpu_raise_softirq', args, reason);
        }
      }
    }
    if (others.length > 0) plan.found(`CPUs ${others.join(', ')}, outside Xen, are told to look again`);
  },
};

/**
 * A stray write makes softirqs pending that have no handler, which is a call of address 0, or whose handler takes it for a BUG that
 * there is nothing to do.
 */
function dropUnknown(plan: PlanBuilder, xen: Xen): void {
  const nmi = Number(xen.profile.constant('NMI_SOFTIRQ'));
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const stat = xen.irqStat(cpu);
    // A capsule from before this was looked at may not have it.
    const pending = ifReadable(() => stat.num('__softirq_pending')) ?? 0;
    const wrong = bitsOf(pending).filter((bit) => !hasHandler(xen, bit) || (bit === nmi && !hasNmi(xen, cpu)));
    if (wrong.length === 0) continue;
    const reason = `CPU ${cpu}: softirqs ${wrong.join(', ')} have nothing to do`;
    plan.set(
      stat,
      '__softirq_pending',
      wrong.reduce((left, bit) => left & ~(1 << bit), pending),
      reason,
    );
    plan.found(reason);
  }
}

const bitsOf = (word: number): number[] =>
  Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => (word >>> bit) & 1);

/** Handlers lie one after the other, from bit 0 on; behind the last one is nothing. */
const hasHandler = (xen: Xen, bit: number): boolean =>
  xen.profile.isText(xen.memory.u64(xen.symbol('softirq_handlers'), 8 * bit));

/** For whom the handler of NMIs is to raise one (Xen 4.17, arch/x86/traps.c). */
const hasNmi = (xen: Xen, cpu: number): boolean => xen.memory.u64(xen.perCpu('softirq_nmi_vcpu', cpu)) !== 0n;
