/**
 * Softirqs are one bit each, cleared before the handler runs: a dropped handler's work is lost. Raising the timer
 * softirq makes Xen look at its timers and program the APIC timer again; raising the schedule softirq makes it choose
 * anew; RCU and tasklets continue with what is on their lists. All of them are harmless when there is nothing to do.
 */
import type { Step } from '../step.js';

/** Raised on every CPU that was in Xen. Not among them: softirqs that expect a state set up for them. */
const RAISED = ['TIMER_SOFTIRQ', 'RCU_SOFTIRQ', 'SCHEDULE_SOFTIRQ', 'TASKLET_SOFTIRQ'] as const;

export const softirqs: Step = {
  name: 'softirqs',
  removes: 'deferred work whose handler was dropped; the APIC timer is programmed again',
  source: 'Zhou and Tamir, DSN 2018: re-arm the APIC timer',
  run({ plan, xen, abandoned, situation }) {
    let mask = 0;
    for (const name of RAISED) mask |= 1 << xen.profile.enumValue(name);
    for (const { cpu } of abandoned) {
      const stat = xen.irqStat(cpu);
      const pending = stat.num('__softirq_pending');
      plan.set(stat, '__softirq_pending', pending | mask, `deferred work of CPU ${cpu}`);
    }
    // A waiting CPU wakes only for an interrupt: have one that runs send it.
    const sender = abandoned[0];
    if (sender === undefined) return;
    const waiting = situation.cpus.filter((state) => state.where !== 'xen').map((state) => state.cpu);
    for (const cpu of waiting) {
      for (const name of ['TIMER_SOFTIRQ', 'SCHEDULE_SOFTIRQ'] as const) {
        plan.call(
          sender.cpu,
          'cpu_raise_softirq',
          [BigInt(cpu), BigInt(xen.profile.enumValue(name))],
          `CPU ${cpu} looks again`,
        );
      }
    }
    if (waiting.length > 0) plan.found(`CPUs ${waiting.join(', ')}, outside Xen, are told to look again`);
  },
};
