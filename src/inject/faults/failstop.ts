/** Failstop (Zhou and Tamir, DSN 2018): the program counter of a CPU that executes the hypervisor becomes 0. */
import { z } from 'zod';
import type { FaultModel } from '../model.js';

const options = z.strictObject({ type: z.literal('failstop') });

export const failstop: FaultModel<typeof options> = {
  name: 'failstop',
  summary: 'the program counter becomes 0',
  options,
  choose: () => ({}),
  async apply({ target, state }) {
    await target.machine.writeRegisters(state.cpu, { rip: 0n });
    return { kind: 'applied', what: 'program counter set to 0' };
  },
};
