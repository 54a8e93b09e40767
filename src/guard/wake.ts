/**
 * A CPU that executed HLT with interrupts off (Xen's own `machine_halt`, or damaged code) sleeps for ever: writing its registers does
 * not wake it in QEMU, nor does running it. It is woken as hardware would, by an interrupt that it takes: Xen's
 * `EVENT_CHECK_VECTOR`, whose handler acknowledges and does nothing else. The CPU returns from it to where the plan sends it.
 */
import type { Machine } from '../machine/machine.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { Xen } from '../xen/xen.js';

const INTERRUPT_FLAG = 1 << 9;
/** Where a write is a message to the local interrupt controller of a CPU: its number stands in bits 12 to 19 (Intel SDM 3, 11.11.1). */
const MESSAGE_ADDRESS = 0xfee00000;
const IDENTITY_SHIFT = 12;

/**
 * @param placed register edits of a plan that was carried out, by CPU
 * @returns the same, with interrupts on for those that had to be woken
 */
export async function wakeHalted(
  machine: Machine,
  xen: Xen,
  placed: ReadonlyMap<number, Partial<CpuRegisters>>,
): Promise<ReadonlyMap<number, Partial<CpuRegisters>>> {
  const woken = new Map(placed);
  const vector = Number(xen.profile.constant('EVENT_CHECK_VECTOR'));
  await Promise.all(
    [...placed].map(async ([cpu, set]) => {
      if (set.rip === undefined || !(await machine.hiddenRegisters(cpu)).halted) return;
      woken.set(cpu, { ...set, rflags: (set.rflags ?? xen.view.registers(cpu).rflags) | INTERRUPT_FLAG });
      const message = Uint8Array.of(vector, 0, 0, 0);
      await machine.writePhysicalStub(MESSAGE_ADDRESS + (xen.view.lapic(cpu).id << IDENTITY_SHIFT), message);
    }),
  );
  return woken;
}
