/**
 * Softirqs are one bit each, cleared before the handler runs: a dropped handler's work is lost. Raising the timer
 * softirq makes Xen look at its timers and program the APIC timer again; raising the schedule softirq makes it choose
 * anew; RCU and tasklets continue with what is on their lists. All of them are harmless when there is nothing to do.
 *
 * Where every CPU runs a guest nobody can tell the others. Their softirqs are raised all the same, and handled when the next
 * interrupt takes them into Xen; in a failure of standing still the guard sends one (`guard/wake.ts`).
 */
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
