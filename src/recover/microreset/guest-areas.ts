/**
 * Xen writes two records into memory of a guest, each guarded so that the guest reads it again and again while it is being
 * written: the time record, whose version is odd meanwhile, and the runstate record, whose XEN_RUNSTATE_UPDATE bit is set
 * (Xen 4.17, arch/x86/time.c and domain.c). A guest that reads one that was left so waits until Xen writes it next, which on
 * a CPU of its own may be never. The CPU writes them once more, by Xen's own functions, before it goes on.
 *
 * Of a thread whose stack pointer was lost nobody knows what it wrote, so that both are written again.
 *
 * The same belongs to the end of a context switch: a vCPU that came to another CPU has that one's time.
 */
import type { CpuState } from '../../xen/cpus.js';
import { onStack } from '../../xen/stack.js';
import type { Step, StepContext } from '../step.js';

const WRITES_TIME = /system_time|context_switch/;
const WRITES_RUNSTATE = /update_runstate_area|context_switch/;

export const guestAreas: Step = {
  name: 'guest-areas',
  removes: 'time and runstate records of guests caught while Xen wrote them: a guest would wait for their end',
  source: 'ours; Xen 4.17 arch/x86/time.c, arch/x86/domain.c',
  run(context) {
    for (const cpu of context.abandoned) if (cpu.current.domain.kind !== 'idle') write(context, cpu);
  },
};

function write({ plan, xen }: StepContext, { cpu, current, backtrace, registers, stack }: CpuState): void {
  const isLost = !onStack(stack, registers.rsp);
  const wasIn = (pattern: RegExp): boolean => isLost || backtrace.some((entry) => pattern.test(entry.text));
  const record = current.object.u64('vcpu_info');
  const isOpen = xen.memory.isMapped(record) && (xen.object('vcpu_info', record).num('time.version') & 1) !== 0;
  if (isOpen) plan.found(`the time record of ${current.name} was being written`);
  const { address } = current;
  if (isOpen || wasIn(WRITES_TIME)) {
    plan.call(cpu, 'force_update_vcpu_system_time', [address], `the time record of ${current.name} is written`);
  }
  if (wasIn(WRITES_RUNSTATE)) {
    plan.call(cpu, '_update_runstate_area', [address], `the runstate record of ${current.name} is written`);
  }
}
