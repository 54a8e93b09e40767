/**
 * An HVM guest's exit that was dropped while Xen handled it (AMD; Xen 4.17, arch/x86/hvm/svm/). The guest stands at the
 * instruction that caused the exit and runs into it again, which is right for almost all of them. Not for:
 *
 * - a hypercall that has its answer while the guest does not yet stand behind its VMMCALL: it would be taken for a
 *   hypercall by the number of its answer. The guest is moved on.
 * - an interrupt that was being delivered when the exit came (`exit_int_info`): the handler queues it again, but only
 *   after it has done other things.
 *
 * And on the way back, `svm_intr_assist` moves an interrupt from "requested" to "in service" before it queues it for
 * delivery. Dropped in between, the guest waits for ever: the interrupt is never delivered, so never acknowledged, and
 * keeps all others of its class away. It is moved back. Where the guest was in the handler of that very vector already, it
 * is interrupted once more than needed.
 *
 * What the VMCB holds of rax and rip is how they were at the exit, until the next entry.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { EntryFacts } from '../../xen/entry.js';
import { threadStackPointer } from '../../xen/hypercalls.js';
import type { XenObject } from '../../xen/object.js';
import { highestInService, vectorBit } from '../../xen/vlapic.js';
import { vmcbOf } from '../../xen/vmcb.js';
import type { Xen } from '../../xen/xen.js';
import { note, type Step, type StepContext } from '../step.js';

/** `VMEXIT_VMMCALL` (AMD64 manual volume 2, appendix C), and the length of the instruction. */
const VMEXIT_VMMCALL = 0x81n;
const VMMCALL_LENGTH = 3n;
/** `intinfo_t`: bit 31 says that there is an event, bits 8 to 10 of what type it is. */
const EVENT_VALID = 1n << 31n;
const EVENT_TYPE = { shift: 8n, mask: 7n, externalInterrupt: 0n, nmi: 2n } as const;

export const vmExits: Step = {
  name: 'vm-exits',
  removes: 'interrupts of HVM guests taken up and not delivered; finished hypercalls of theirs that would be repeated',
  source: 'ours; Xen 4.17 hvm/svm/svm.c, hvm/svm/intr.c',
  run(context) {
    for (const cpu of context.abandoned) if (cpu.current.domain.kind === 'hvm') repair(context, cpu);
  },
};

function repair(context: StepContext, cpu: CpuState): void {
  const { xen, facts } = context;
  const vmcb = vmcbOf(xen, cpu.current);
  const stage = stageOf(xen, facts, cpu);
  if (stage === 'handling') {
    requeue(context, cpu, vmcb);
    finishHypercall(context, cpu, vmcb);
  } else if (stage === 'delivering') {
    takeBack(context, cpu, vmcb);
  }
}

/** Which call of the loop around VMRUN is under way: the one whose return address lies under the guest's frame. */
function stageOf(xen: Xen, { svm }: EntryFacts, cpu: CpuState): 'handling' | 'delivering' | undefined {
  if (threadStackPointer(xen, cpu) >= cpu.stack.guestFrame) return undefined;
  const slot = xen.memory.u64(cpu.stack.guestFrame - 8n);
  if (slot === svm?.handlerReturn) return 'handling';
  return slot === svm?.assistReturn ? 'delivering' : undefined;
}

function requeue({ plan }: StepContext, { current }: CpuState, vmcb: XenObject): void {
  const interrupted = vmcb.u64('exit_int_info.raw');
  const type = (interrupted >> EVENT_TYPE.shift) & EVENT_TYPE.mask;
  const asynchronous = type === EVENT_TYPE.externalInterrupt || type === EVENT_TYPE.nmi;
  if ((interrupted & EVENT_VALID) === 0n || !asynchronous) return;
  if ((vmcb.u64('event_inj.raw') & EVENT_VALID) !== 0n) return;
  plan.set(vmcb, 'event_inj.raw', interrupted, `${current.name}: the interrupt under way at its exit is delivered`);
  plan.found(`${current.name}: vector ${interrupted & 0xffn} was being delivered when it left its guest`);
}

function finishHypercall(context: StepContext, cpu: CpuState, vmcb: XenObject): void {
  const { plan, xen } = context;
  const frame = xen.object('cpu_user_regs', cpu.stack.guestFrame);
  if (vmcb.u64('exitcode') !== VMEXIT_VMMCALL || frame.u64('rip') !== vmcb.u64('rip')) return;
  if (frame.u64('rax') === vmcb.u64('rax')) return;
  const reason = `${cpu.current.name}: its hypercall has its answer`;
  plan.set(frame, 'rip', frame.u64('rip') + VMMCALL_LENGTH, reason);
  plan.found(reason);
  note(context, cpu.cpu, 'its hypercall is finished');
}

function takeBack({ plan, xen }: StepContext, { current }: CpuState, vmcb: XenObject): void {
  if ((vmcb.u64('event_inj.raw') & EVENT_VALID) !== 0n) return;
  const vector = highestInService(xen, current);
  if (vector === undefined) return;
  const reason = `vector ${vector} of ${current.name} was taken up and not delivered`;
  const inService = vectorBit(xen, current, 'inService', vector);
  const requested = vectorBit(xen, current, 'requested', vector);
  plan.write(requested.address, 4, xen.memory.u32(requested.address) | requested.mask, reason);
  plan.write(inService.address, 4, xen.memory.u32(inService.address) & ~inService.mask, reason);
  plan.found(reason);
}
