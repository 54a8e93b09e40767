/**
 * A moment at which a box can be saved, and QEMU can load what was saved.
 *
 * QEMU 7.2 refuses a CPU that was saved inside an HVM guest (`cpu_post_load` of target/i386/machine.c takes it for an inconsistent
 * KVM state), and does not save that interrupts are held back around the entry to one. A CPU in `hlt`, in a PV guest under Xen's
 * interrupt table, or in Xen away from that entry is neither.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import type { Machine } from '../machine/machine.js';
import { privilegeLevel } from '../x86/registers.js';
import { readEntryFacts, type SvmEntry } from '../xen/entry.js';
import { locateXen } from '../xen/locate.js';
import type { Xen } from '../xen/xen.js';
import type { BoxSpec } from './spec.js';

const LIMIT_MS = 60_000;
/** An HVM guest is left at its next interrupt; a timer's comes within some milliseconds. */
const EXIT_LIMIT_MS = 200;
/**
 * Virtual addresses that are Xen's (4.17, xen/arch/x86/include/asm/config.h): the first CPU's interrupt table is in Xen's
 * image, the others' are on its heap. Linux has its own elsewhere.
 */
const XEN_BEGIN = 0xffff800000000000n;
const XEN_END = 0xffff880000000000n;

/**
 * Freezes the machine at such a moment. CPUs that are inside an HVM guest then are run to its end, one by one: a box with many of them
 * has hardly a moment at which none is.
 * @throws NL_TIMEOUT, the signal's reason
 */
export async function freezeForSaving(machine: Machine, spec: BoxSpec, signal?: AbortSignal): Promise<void> {
  const end = performance.now() + LIMIT_MS;
  let exits: Exits | undefined;
  for (;;) {
    await machine.freeze();
    if (spec.accel !== 'tcg' || (await cpusInTheWay(machine, undefined)).length === 0) return;
    exits ??= await findExits(machine);
    if (exits !== undefined && (await leaveGuests(machine, exits))) return;
    if (performance.now() > end)
      throw new NinelivesError('NL_TIMEOUT', 'no moment was found at which the box can be saved', { fix: 'try again' });
    await machine.resume();
    // Of changing length, so as not to meet the same phase of the guests' timers each time.
    await sleep(5 + Math.random() * 25);
    signal?.throwIfAborted();
  }
}

/** Where Xen goes on after an exit of an HVM guest, and where interrupts are held back. */
interface Exits {
  readonly xen: Xen;
  readonly handler: bigint;
  readonly svm: SvmEntry;
}

/** `undefined` for a Xen without a profile: then one has to wait. */
async function findExits(machine: Machine): Promise<Exits | undefined> {
  try {
    const xen = locateXen(await machine.capture());
    const { svm } = readEntryFacts(xen);
    return svm === undefined ? undefined : { xen, handler: xen.symbol('svm_vmexit_handler'), svm };
  } catch (error) {
    if (isNinelivesError(error)) return undefined;
    throw error;
  }
}

async function leaveGuests(machine: Machine, exits: Exits): Promise<boolean> {
  for (const cpu of await cpusInTheWay(machine, exits)) {
    await machine.runOne(cpu, { until: exits.handler, timeoutMs: EXIT_LIMIT_MS });
  }
  return (await cpusInTheWay(machine, exits)).length === 0;
}

/** CPUs that cannot be saved as they stand. Without knowing Xen's code, a CPU in Xen is one. */
async function cpusInTheWay(machine: Machine, exits: Exits | undefined): Promise<number[]> {
  const registers = await machine.allRegisters();
  const found: number[] = [];
  for (const [cpu, { cs, rip }] of registers.entries()) {
    const { halted, idt } = await machine.hiddenRegisters(cpu);
    const underXen = idt.base >= XEN_BEGIN && idt.base < XEN_END;
    const isFree = halted || privilegeLevel({ cs }) === 3 || (exits !== undefined && isAwayFromEntry(exits, rip));
    if (!underXen || !isFree) found.push(cpu);
  }
  return found;
}

const isAwayFromEntry = ({ xen, svm }: Exits, rip: bigint): boolean =>
  xen.profile.isText(rip) && !(rip > svm.clgi && rip <= svm.stgi);
