/**
 * A vector whose handler was dropped stays "in service" in the local APIC: nothing of its priority class or below is
 * delivered any more. An EOI cannot be written from outside, so the CPU does it: it calls Xen's own
 * `event_check_interrupt`, which acknowledges and does nothing else, once for each such vector.
 *
 * The interrupt itself would be lost, and an edge-triggered device never repeats it: before the EOI the CPU sends
 * itself the same vector, so its handler runs again as soon as interrupts are on. Handlers of IPIs find their request
 * withdrawn (step `rendezvous`) and return.
 */
import type { Step } from '../step.js';

/** Vectors below are exceptions; the spurious vector and the APIC's own error vector are not repeated. */
const FIRST_REPEATED = 0x20;
const NEVER_REPEATED = ['SPURIOUS_APIC_VECTOR', 'ERROR_APIC_VECTOR'] as const;

export const inServiceVectors: Step = {
  name: 'in-service-vectors',
  removes: 'interrupts accepted and never acknowledged, which make a CPU deaf',
  source: 'Le and Tamir, VEE 2011: acknowledge pending and in-service interrupts',
  run({ plan, xen, abandoned }) {
    const never = new Set(NEVER_REPEATED.map((name) => Number(xen.profile.constant(name))));
    for (const { cpu } of abandoned) {
      const vectors = xen.view.lapic(cpu).inService;
      for (const vector of vectors) {
        if (vector < FIRST_REPEATED || never.has(vector)) continue;
        plan.call(cpu, 'send_IPI_self', [BigInt(vector)], `vector ${vector} of CPU ${cpu} is delivered again`);
      }
      for (const vector of vectors) {
        plan.call(cpu, 'event_check_interrupt', [0n], `vector ${vector} of CPU ${cpu} is acknowledged`);
      }
      if (vectors.length > 0) plan.found(`CPU ${cpu}: vectors ${vectors.join(', ')} in service`);
    }
  },
};
