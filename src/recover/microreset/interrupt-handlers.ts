/**
 * A handler of an interrupt that was dropped (Xen 4.17, arch/x86/irq.c `do_IRQ`).
 *
 * - A line of Xen's own is marked as being handled meanwhile, and while it is, its further interrupts are left to the handler
 *   that is gone: it would be dead.
 * - Most interrupts are acknowledged first and handled then. Such a one is no longer in service, and its device, told that it was
 *   heard, does not repeat itself: the CPU sends itself the vector once more. A handler that finds nothing to do returns.
 *
 * Interrupts that are still in service are dealt with by `in-service-vectors`.
 */
import type { CpuState } from '../../xen/cpus.js';
import { threadStackPointer } from '../../xen/hypercalls.js';
import type { Step, StepContext } from '../step.js';

/** `irq_desc.status`: a handler is at work on the line. */
const IRQ_INPROGRESS = 1;
/** Vectors below are exceptions. */
const FIRST_INTERRUPT = 0x20;
/** The last one is no interrupt but a guest's own `int 0x80`. */
const NEVER_REPEATED = ['SPURIOUS_APIC_VECTOR', 'ERROR_APIC_VECTOR', 'LEGACY_SYSCALL_VECTOR'] as const;
const LINES_LIMIT = 4096;
const INTERRUPT_ENTRY = 'common_interrupt';

export const interruptHandlers: Step = {
  name: 'interrupt-handlers',
  removes: 'interrupts acknowledged whose handler was dropped, and the marks that keep others from handling them',
  source: 'ours; Xen 4.17 arch/x86/irq.c',
  run(context) {
    const { plan, xen, abandoned } = context;
    const never = new Set(NEVER_REPEATED.map((name) => Number(xen.profile.constant(name))));
    for (const cpu of abandoned) {
      const inService = new Set(xen.view.lapic(cpu.cpu).inService);
      for (const vector of new Set(handledVectors(context, cpu))) {
        if (vector < FIRST_INTERRUPT || never.has(vector) || inService.has(vector)) continue;
        plan.call(cpu.cpu, 'send_IPI_self', [BigInt(vector)], `vector ${vector} of CPU ${cpu.cpu} is handled again`);
        plan.found(`CPU ${cpu.cpu}: the handler of vector ${vector} was dropped`);
      }
    }
    // Only a handler leaves its mark, and it is on the stack of its CPU.
    if (context.wasIn(/do_IRQ|common_interrupt/)) freeLines(context);
  },
};

/** Vectors whose handler is under way: of interrupts taken inside Xen, and of the one that the CPU entered Xen by. */
function handledVectors({ xen, facts }: StepContext, cpu: CpuState): number[] {
  const vectors = cpu.traps.filter(({ takenBy }) => takenBy === INTERRUPT_ENTRY).map(({ vector }) => vector);
  const inCall = threadStackPointer(xen, cpu) < cpu.stack.guestFrame;
  const caller = inCall ? facts.frameReturns.get(xen.memory.u64(cpu.stack.guestFrame - 8n)) : undefined;
  if (caller === INTERRUPT_ENTRY && cpu.current.domain.kind !== 'idle') {
    vectors.push(xen.object('cpu_user_regs', cpu.stack.guestFrame).num('entry_vector') & 0xff);
  }
  return vectors;
}

function freeLines({ plan, xen }: StepContext): void {
  const table = xen.memory.u64(xen.symbol('irq_desc'));
  const count = xen.memory.u32(xen.symbol('nr_irqs'));
  if (!xen.memory.isMapped(table) || count > LINES_LIMIT) return;
  const size = BigInt(xen.sizeOf('irq_desc'));
  const offset = xen.offsetOf('irq_desc', 'status');
  for (let irq = 0; irq < count; irq++) {
    const at = table + BigInt(irq) * size + offset;
    const status = xen.memory.u32(at);
    if ((status & IRQ_INPROGRESS) === 0) continue;
    plan.write(at, 4, status & ~IRQ_INPROGRESS, `nobody handles interrupt line ${irq} any more`);
    plan.found(`interrupt line ${irq} was being handled`);
  }
}
