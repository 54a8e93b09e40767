/**
 * Which page frames a thread can have been working on. A thread that changes a frame's descriptor, or a page table, must
 * find it again: its address, its number or an entry that leads to it is in a register or on the stack. So every value there
 * is taken for each of the three, as a conservative garbage collector does; what is none of them costs a look.
 */
import { PAGE_SIZE } from '../x86/address.js';
import { GENERAL_REGISTERS } from '../x86/registers.js';
import type { CpuState } from './cpus.js';
import { type FrameWords, frameTable } from './frames.js';
import { childOf } from './page-tables.js';
import { onStack } from './stack.js';
import type { Xen } from './xen.js';

const TWO_32 = 2 ** 32;
const FRAMES_PER_TWO_32 = TWO_32 / PAGE_SIZE;

/** Frames in use, of a type that is validated or locked, that the threads of these CPUs can have been working on; ascending. */
export const touchedFrames = (xen: Xen, words: FrameWords, cpus: readonly CpuState[]): number[] =>
  [...framesLedTo(xen, words.count, cpus)].filter((frame) => words.typeOf(frame) !== 0).sort((a, b) => a - b);

/** Frames below `count`, whatever they are used for, that some value of these CPUs' threads can stand for. */
export function framesLedTo(xen: Xen, count: number, cpus: readonly CpuState[]): ReadonlySet<number> {
  const found = new Set<number>();
  const table = frameTable(xen);
  const tableHigh = Number(table >> 32n);
  const tableLow = Number(table & 0xffff_ffffn);
  const directMapHigh = Number(BigInt(xen.profile.constant('DIRECTMAP_VIRT_START')) >> 32n);
  const size = xen.sizeOf('page_info');

  eachValue(xen, cpus, (high, low) => {
    if (high >= tableHigh && high < directMapHigh)
      frame(Math.floor(((high - tableHigh) * TWO_32 + low - tableLow) / size));
    else if (high >= directMapHigh) frame((high - directMapHigh) * FRAMES_PER_TWO_32 + (low >>> 12));
    if (high === 0) frame(low);
    frame(childOf(low, high));
  });
  return found;

  function frame(number: number): void {
    if (number > 0 && number < count) found.add(number);
  }
}

/** Frames whose descriptor's address these CPUs' threads have. */
export function descriptorsHeld(xen: Xen, count: number, cpus: readonly CpuState[]): ReadonlySet<number> {
  const found = new Set<number>();
  const table = frameTable(xen);
  const tableHigh = Number(table >> 32n);
  const tableLow = Number(table & 0xffff_ffffn);
  const size = xen.sizeOf('page_info');
  eachValue(xen, cpus, (high, low) => {
    const frame = ((high - tableHigh) * TWO_32 + low - tableLow) / size;
    if (Number.isInteger(frame) && frame > 0 && frame < count) found.add(frame);
  });
  return found;
}

/** Every value in the registers and on the stacks of these CPUs' threads, as its upper and its lower half. */
export function eachValue(xen: Xen, cpus: readonly CpuState[], act: (high: number, low: number) => void): void {
  for (const { registers, stack } of cpus) {
    for (const name of GENERAL_REGISTERS) act(Number(registers[name] >> 32n), Number(registers[name] & 0xffff_ffffn));
    // Above is the guest's frame: what it holds and Xen has used, Xen has copied.
    const from = onStack(stack, registers.rsp) ? registers.rsp & ~7n : stack.base;
    if (from >= stack.guestFrame) continue;
    const bytes = xen.memory.bytes(from, Number(stack.guestFrame - from));
    const slots = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let n = 0; n < slots.length; n += 2) act(slots[n + 1]!, slots[n]!);
  }
}
