/**
 * A CPU that executed HLT sleeps until an interrupt comes that it takes: writing its registers does not wake it in QEMU, nor does
 * running it. Where a plan sends it interrupts are off, as they were where Xen's own `machine_halt` or damaged code put it to
 * sleep, so it would sleep for ever. It is woken as hardware would, by an interrupt that it takes: Xen's
 * `EVENT_CHECK_VECTOR`, whose handler acknowledges and does nothing else. The CPU returns from it to where the plan sends it.
 *
 * A CPU that sleeps with an interrupt in service that is no less urgent takes none any more, and only it could acknowledge that one. It
 * is woken by a non-maskable one. Xen knows no reason for it, and tells dom0 so, which writes a line into its log.
 *
 * The same interrupt takes CPUs out of their guests where a plan sends none anywhere: they may have no timer that would.
 */
import type { Failure } from '../detect/failure.js';
import type { Machine } from '../machine/machine.js';
import type { CpuRegisters } from '../x86/registers.js';
import { isBehindHlt } from '../xen/cpus.js';
import type { Xen } from '../xen/xen.js';

const INTERRUPT_FLAG = 1 << 9;
/** Where a write is a message to the local interrupt controller of a CPU: its number stands in bits 12 to 19 (Intel SDM 3, 11.11.1). */
const MESSAGE_ADDRESS = 0xfee00000;
const IDENTITY_SHIFT = 12;
/** Delivery mode of such a message: a non-maskable interrupt (Intel SDM 3, 11.11.2). */
const NON_MASKABLE = 4 << 8;
/** Of vectors with the same upper half none interrupts another. */
const CLASS_SHIFT = 4;

/** CPUs that may be asleep: those behind an HLT, and in a failure of standing still all, since one may have been sent elsewhere. */
export function maybeAsleep(xen: Xen, { kind }: Failure): ReadonlySet<number> {
  const stands = kind === 'hang' || kind === 'halt';
  const mayBe = (cpu: number): boolean => stands || isBehindHlt(xen, xen.view.registers(cpu).rip);
  return new Set(Array.from({ length: xen.cpuCount }, (_, cpu) => cpu).filter(mayBe));
}

/**
 * @param candidates as `maybeAsleep` gave them before the plan was carried out: it may change text
 * @param placed register edits of a plan that was carried out, by CPU
 * @returns the same, with interrupts on for those that had to be woken by one that could be masked
 */
export async function wakeHalted(
  machine: Machine,
  xen: Xen,
  candidates: ReadonlySet<number>,
  placed: ReadonlyMap<number, Partial<CpuRegisters>>,
): Promise<ReadonlyMap<number, Partial<CpuRegisters>>> {
  const woken = new Map(placed);
  await Promise.all(
    [...placed].map(async ([cpu, set]) => {
      if (set.rip === undefined || !candidates.has(cpu) || !(await machine.hiddenRegisters(cpu)).halted) return;
      if (!isDeaf(xen, cpu))
        woken.set(cpu, { ...set, rflags: (set.rflags ?? xen.view.registers(cpu).rflags) | INTERRUPT_FLAG });
      await interrupt(machine, xen, cpu);
    }),
  );
  return woken;
}

/** Where every CPU of a machine that stood still runs its guest, and goes on there: has each enter Xen. */
export async function callOut(
  machine: Machine,
  xen: Xen,
  { kind }: Failure,
  placed: ReadonlyMap<number, Partial<CpuRegisters>>,
): Promise<void> {
  if (kind !== 'hang' || placed.size > 0) return;
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) await interrupt(machine, xen, cpu);
}

async function interrupt(machine: Machine, xen: Xen, cpu: number): Promise<void> {
  const data = isDeaf(xen, cpu) ? NON_MASKABLE : wakingVector(xen);
  const message = Uint8Array.of(data & 0xff, data >> 8, 0, 0);
  await machine.writePhysicalStub(MESSAGE_ADDRESS + (xen.view.lapic(cpu).id << IDENTITY_SHIFT), message);
}

const wakingVector = (xen: Xen): number => Number(xen.profile.constant('EVENT_CHECK_VECTOR'));

/** Whether what a CPU has in service keeps it from taking the interrupt that would wake it. */
const isDeaf = (xen: Xen, cpu: number): boolean =>
  xen.view.lapic(cpu).inService.some((vector) => vector >> CLASS_SHIFT >= wakingVector(xen) >> CLASS_SHIFT);
