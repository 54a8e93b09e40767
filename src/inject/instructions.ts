/** Xen's instructions as an injector sees them. */
import { decode, type Instruction } from '../x86/decode.js';
import type { Site } from './model.js';

/** The longest that an instruction can be, in bytes. */
const LONGEST = 15;

/** What `tell` says of the instruction at an address; `undefined` where there is none. The instruction is valid only while it is told. */
export function instructionAt<T>({ xen }: Site, rip: bigint, tell: (instruction: Instruction) => T): T | undefined {
  for (const instruction of decode(xen.memory.bytes(rip, LONGEST), rip)) return tell(instruction);
  return undefined;
}

/** Whether the instruction at an address is one that is looked for. Remembered by address: code is passed again and again. */
export function instructionsWhere(site: Site, is: (instruction: Instruction) => boolean): (rip: bigint) => boolean {
  const known = new Map<bigint, boolean>();
  return (rip) => {
    let answer = known.get(rip);
    if (answer === undefined) {
      answer = instructionAt(site, rip, is) ?? false;
      known.set(rip, answer);
    }
    return answer;
  };
}
