/**
 * A context switch that was dropped half way. Xen 4.17 (`context_switch`, arch/x86/domain.c) first names the new vCPU
 * `current`, then `__context_switch` saves the old one's registers from the stack top, saves its extended state, copies
 * the new one's registers to the stack top, loads its extended state, and last of all notes it as `curr_vcpu`.
 *
 * While `current` and `curr_vcpu` differ (and the new one is not idle, whose state is loaded lazily) the switch is open:
 * - the stack top still holds the old vCPU's registers: the whole of `__context_switch` is run again;
 * - it holds the new one's: the old one was saved completely, since that comes first; the idle vCPU is noted as
 *   `curr_vcpu`, so that running it again only loads.
 *
 * The CPU runs the function itself before it goes on, see `place-cpus`.
 */
import type { CpuState } from '../../xen/cpus.js';
import { note, type Step, type StepContext } from '../step.js';

export const contextSwitch: Step = {
  name: 'context-switch',
  removes: 'context switches caught half done: registers of one vCPU under the name of another',
  source: 'Zhou and Tamir, DSN 2018: scheduling metadata, per-CPU copy wins; the completion is ours',
  run(context) {
    for (const cpu of context.abandoned) {
      if (cpu.current.domain.kind !== 'idle' && cpu.current.address !== cpu.loaded.address) complete(context, cpu);
    }
  },
};

function complete(context: StepContext, cpu: CpuState): void {
  const { plan, xen } = context;
  const length = xen.profile.struct('cpu_user_regs').field('es').offset;
  const onTop = xen.memory.bytes(cpu.stack.guestFrame, length);
  const incoming = xen.memory.bytes(cpu.current.object.at('arch.user_regs'), length);
  const copied = onTop.every((byte, i) => byte === incoming[i]);
  const idle = context.situation.domains.at(-1)!.vcpus[cpu.cpu]!;
  const lastWord = xen.perCpu('curr_vcpu', cpu.cpu);
  if (copied && cpu.loaded.domain.kind !== 'idle') {
    plan.write(
      lastWord,
      8,
      idle.address,
      `CPU ${cpu.cpu}: ${cpu.loaded.name} is saved, only ${cpu.current.name} is loaded`,
    );
    plan.set(cpu.loaded.object, 'dirty_cpu', 0xffff_ffff, `no CPU holds state of ${cpu.loaded.name}`);
  }
  plan.call(cpu.cpu, '__context_switch', [], `the switch from ${cpu.loaded.name} to ${cpu.current.name} is completed`);
  plan.found(`CPU ${cpu.cpu}: from ${cpu.loaded.name} to ${cpu.current.name}, ${copied ? 'loading' : 'saving'}`);
  note(context, cpu.cpu, `switch to ${cpu.current.name} is completed`);
}
