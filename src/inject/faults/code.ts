/**
 * Code (Zhou and Tamir, DSN 2018): one random bit flips in the 15 bytes of code at the program counter, the longest that an
 * instruction can be. It stays flipped for every CPU that comes by, until the error is detected: then the papers' injector
 * repairs it, since neither of their mechanisms restores code.
 */
import { z } from 'zod';
import type { FaultModel } from '../model.js';

const WINDOW_BYTES = 15;

const options = z.strictObject({
  type: z.literal('code'),
  /** Whether the injector puts the bit back when the failure is detected. */
  repair: z.boolean().default(true),
});

const choiceSchema = z.object({
  byte: z
    .int()
    .min(0)
    .max(WINDOW_BYTES - 1),
  bit: z.int().min(0).max(7),
  repair: z.boolean(),
});

export const code: FaultModel<typeof options> = {
  name: 'code',
  summary: 'one bit of the 15 bytes of code at the program counter flips',
  options,
  choose(random, { repair }) {
    return { byte: random.integer(0, WINDOW_BYTES - 1), bit: random.integer(0, 7), repair };
  },
  async apply({ target, state, xen }, choice) {
    const { byte, bit, repair } = choiceSchema.parse(choice);
    const address = state.registers.rip + BigInt(byte);
    const before = xen.memory.u8(address);
    // By its physical address, since a broken CPU may have lost its page table; through the stub, so that it is translated anew.
    const at = xen.memory.physicalAddress(address);
    const write = (value: number): Promise<void> => target.machine.writePhysicalStub(at, Uint8Array.of(value));
    const after = before ^ (1 << bit);
    await write(after);
    return {
      kind: 'applied',
      what: `bit ${bit} of byte ${byte} at the program counter flipped: 0x${before.toString(16)} became 0x${after.toString(16)}`,
      ...(repair ? { repair: () => write(before) } : {}),
    };
  },
};
