/**
 * Requests from one CPU to others, in flight when both sides were dropped: "call this function", "flush your TLB".
 * The function's argument lies on a stack that is about to be reused, so a CPU that still finds the request would run
 * it on rubbish: the requests are withdrawn. The retried operation makes them again.
 *
 * The same holds for a stop of the machine (common/stop_machine.c), in which every CPU waits for the next word of one that is
 * gone: it is told to be over, so that a CPU which still has it to begin ends at once.
 *
 * A page-table change may have been made and its flush dropped, and the retried operation then sees nothing to flush:
 * every CPU's TLB is flushed, by loading the CR3 it has.
 */
import type { Step } from '../step.js';

export const rendezvous: Step = {
  name: 'rendezvous',
  removes: 'cross-CPU calls and TLB flushes in flight',
  source: 'ours; Xen 4.17 common/smp.c, arch/x86/smp.c',
  run({ plan, xen, situation }) {
    const call = xen.object('call_data_struct', xen.symbol('call_data'));
    clearMask(call.at('selected'), 'CPUs asked to call a function');
    for (const symbol of ['flush_cpumask', 'waiting_to_crash']) {
      if (xen.profile.hasSymbol(symbol)) clearMask(xen.symbol(symbol), `CPUs in ${symbol}`);
    }
    endStop();
    for (const { cpu, registers } of situation.cpus) {
      plan.setRegisters(cpu, { cr3: registers.cr3 }, `TLB of CPU ${cpu} is flushed`);
    }

    function endStop(): void {
      const stop = xen.object('stopmachine_data', xen.symbol('stopmachine_data'));
      // A capsule from before this was looked at does not have that page.
      if (!xen.memory.isMapped(stop.address) || stop.num('nr_cpus') === 0) return;
      const over = xen.profile.enumValue('STOPMACHINE_EXIT');
      if (plan.set(stop, 'state', over, 'the stop of the machine is over'))
        plan.found('a stop of the machine: withdrawn');
    }

    function clearMask(address: bigint, what: string): void {
      const length = xen.sizeOf('cpumask_t') || 32;
      if (plan.writeBytes(address, new Uint8Array(length), `${what}: withdrawn`)) plan.found(`${what}: withdrawn`);
    }
  },
};
