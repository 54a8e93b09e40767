/**
 * Which page frames a thread can have been working on. A thread that changes a frame's descriptor, or a page table, must
 * find it again: its address, its number or an entry that leads to it is in a register or on the stack. So every value there
 * is taken for each of the three, as a conservative garbage collector does; what is none of them costs a look.
 */
import { PAGE_SIZE } from '../x86/address.js';
import { GENERAL_REGISTERS } from '../x86/registers.js';
import type { CpuState } from './cpus.js';
import { type FrameWords, frameTable } from './frames.js';
import { onStack } from './stack.js';
import type { Xen } from './xen.js';

const TWO_32 = 2 ** 32;
const FRAMES_PER_TWO_32 = TWO_32 / PAGE_SIZE;
/** Bits 32 to 51 of an address: what a page-table entry's upper half tells of its frame. */
const HIGH_FRAME = 0xfffff;

/** Frames in use, of a type that is validated or locked, that the threads of these CPUs can have been working on; ascending. */
export function touchedFrames(xen: Xen, words: FrameWords, cpus: readonly CpuState[]): number[] {
  const found = new Set<number>();
  const looked = new Set<number>();
  const table = frameTable(xen);
  const tableHigh = Number(table >> 32n);
  const tableLow = Number(table & 0xffff_ffffn);
  const directMapHigh = Number(BigInt(xen.profile.constant('DIRECTMAP_VIRT_START')) >> 32n);
  const size = xen.sizeOf('page_info');

  for (const { registers, stack } of cpus) {
    for (const name of GENERAL_REGISTERS) value(Number(registers[name] >> 32n), Number(registers[name] & 0xffff_ffffn));
    // Above is the guest's frame: what it holds and Xen has used, Xen has copied.
    const from = onStack(stack, registers.rsp) ? registers.rsp & ~7n : stack.base;
    if (from >= stack.guestFrame) continue;
    const bytes = xen.memory.bytes(from, Number(stack.guestFrame - from));
    const slots = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let n = 0; n < slots.length; n += 2) value(slots[n + 1]!, slots[n]!);
  }
  return [...found].sort((a, b) => a - b);

  function value(high: number, low: number): void {
    if (high >= tableHigh && high < directMapHigh)
      frame(Math.floor(((high - tableHigh) * TWO_32 + low - tableLow) / size));
    else if (high >= directMapHigh) frame((high - directMapHigh) * FRAMES_PER_TWO_32 + (low >>> 12));
    if (high === 0) frame(low);
    frame((high & HIGH_FRAME) * FRAMES_PER_TWO_32 + (low >>> 12));
  }

  function frame(number: number): void {
    if (number <= 0 || number >= words.count || looked.has(number)) return;
    looked.add(number);
    if (words.typeOf(number) !== 0) found.add(number);
  }
}
