/**
 * A guest whose hypercall was dropped has to issue it again: its instruction pointer goes back onto the SYSCALL.
 * Exceptions and VM exits need nothing, since the guest's instruction pointer still stands at their cause.
 *
 * A call that ended is not repeated, a call that never reached `pv_hypercall` is; which of the three it is comes from
 * the stack (see `xen/hypercalls.ts`).
 */
import type { CpuState } from '../../xen/cpus.js';
import { hypercallProgress } from '../../xen/hypercalls.js';
import { note, type Step, type StepContext, TF_KERNEL_MODE } from '../step.js';

/** Length of SYSCALL. */
const SYSCALL_LENGTH = 2n;

export const retryHypercalls: Step = {
  name: 'retry-hypercalls',
  removes: 'requests of guests that were dropped half done: hypercalls and forwarded system calls',
  source: 'Le and Tamir, VEE 2011: hypercall retry; Zhou and Tamir, DSN 2018: system call retry',
  run(context) {
    for (const cpu of context.abandoned) retry(context, cpu);
  },
};

function retry(context: StepContext, cpu: CpuState): void {
  const { plan, xen } = context;
  if (cpu.current.domain.kind !== 'pv') return;
  // Asked again of the plan so far: the step `complete-frames` may just have completed the frame.
  const progress = hypercallProgress(xen, context.facts, cpu);
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  const { name: vcpu } = cpu.current;
  if (progress.state === 'in-progress') {
    const { name, number, started } = progress;
    plan.set(frame, 'rip', frame.u64('rip') - SYSCALL_LENGTH, `${vcpu} issues hypercall ${name} again`);
    plan.set(frame, 'rax', number, `${vcpu} asks for hypercall ${name} again`);
    // `iret` goes back to a process: dropped after the exchange of page tables, it is not yet there.
    const left = (cpu.current.object.num('arch.flags') & TF_KERNEL_MODE) === 0;
    if (left) plan.call(cpu.cpu, 'toggle_guest_mode', [cpu.current.address], `${vcpu} goes back to its kernel`);
    plan.found(`${vcpu}: ${name} ${started ? 'was under way' : 'had not begun'}`);
    note(context, cpu.cpu, `hypercall ${name} is retried`);
  } else if (progress.state === 'forwarded-syscall') {
    plan.set(frame, 'rip', frame.u64('rip') - SYSCALL_LENGTH, `a process of ${vcpu} issues its system call again`);
    // The frame is still the process's; where Xen had switched to the kernel's page tables already, it switches back.
    const inKernel = (cpu.current.object.num('arch.flags') & TF_KERNEL_MODE) !== 0;
    if (inKernel) plan.call(cpu.cpu, 'toggle_guest_mode', [cpu.current.address], `${vcpu} goes back to its process`);
    plan.found(`${vcpu}: a system call was being forwarded`);
    note(context, cpu.cpu, 'the system call is retried');
  }
}
