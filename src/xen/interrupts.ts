/** Interrupt lines, and those that belong to guests (Xen 4.17, arch/x86/irq.c). */
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** `irq_desc.status`: guests handle the line, so its action is an `irq_guest_action_t`. */
const IRQ_GUEST = 1 << 4;
/** More lines than that are no table of lines. */
const LINES_LIMIT = 4096;
/** One for each vector that Xen gives out (Xen 4.17, irq_vectors.h: NR_DYNAMIC_VECTORS). */
const PENDING_EOIS = 208;

export interface GuestLine {
  readonly irq: number;
  /** `struct irq_desc` */
  readonly line: XenObject;
  /** `irq_guest_action_t` */
  readonly action: XenObject;
}

/** The lines that guests handle. */
export function* guestLines(xen: Xen): Generator<GuestLine> {
  const table = xen.memory.u64(xen.symbol('irq_desc'));
  const count = xen.memory.u32(xen.symbol('nr_irqs'));
  if (!xen.memory.isMapped(table) || count > LINES_LIMIT) return;
  const size = BigInt(xen.sizeOf('irq_desc'));
  const status = xen.offsetOf('irq_desc', 'status');
  for (let irq = 0; irq < count; irq++) {
    const address = table + BigInt(irq) * size;
    if ((xen.memory.u32(address + BigInt(status)) & IRQ_GUEST) === 0) continue;
    const line = xen.object('irq_desc', address);
    const action = line.u64('action');
    if (xen.memory.isMapped(action)) yield { irq, line, action: xen.object('irq_guest_action_t', action) };
  }
}

export interface PendingEoi {
  readonly irq: number;
  readonly vector: number;
  /** The guest is done with it. */
  readonly ready: boolean;
}

/**
 * Interrupts that a CPU delivered to guests and acknowledges when they are done, oldest first. The array's last slot holds how
 * many there are in the place of a vector.
 */
export function pendingEois(xen: Xen, cpu: number): readonly PendingEoi[] {
  const stack = xen.perCpu('pending_eoi', cpu);
  const slot = (n: number): XenObject => xen.object('pending_eoi', stack + BigInt(n * xen.sizeOf('pending_eoi')));
  const count = Math.min(slot(PENDING_EOIS - 1).num('vector'), PENDING_EOIS - 1);
  return Array.from({ length: count }, (_, n) => {
    const entry = slot(n);
    return { irq: entry.num('irq'), vector: entry.num('vector'), ready: entry.bool('ready') };
  });
}
