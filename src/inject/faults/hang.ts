/**
 * Hang: the CPU executes the same instruction for ever, in the middle of what it did. A jump to itself is put over the code at the
 * program counter of this CPU only: it is sent to one that Xen's text has anyway, so no other CPU is caught by it.
 */
import { z } from 'zod';
import { RFLAGS } from '../../x86/registers.js';
import type { Xen } from '../../xen/xen.js';
import type { FaultModel } from '../model.js';

const options = z.strictObject({
  type: z.literal('hang'),
  /** Whether the CPU still takes interrupts while it spins; `either`: each as likely. */
  interrupts: z.enum(['on', 'off', 'either']).default('either'),
});

const choiceSchema = z.object({ interrupts: z.enum(['on', 'off']) });

export const hang: FaultModel<typeof options> = {
  name: 'hang',
  summary: 'the CPU spins where it stands, with interrupts on or off',
  options,
  choose(random, { interrupts }) {
    return { interrupts: interrupts === 'either' ? random.pick(['on', 'off'] as const) : interrupts };
  },
  async apply({ target, state, xen }, choice) {
    const { interrupts } = choiceSchema.parse(choice);
    const rip = jumpToItself(xen);
    if (rip === undefined) return { kind: 'not-reached', why: "Xen's text has no jump to itself to spin on" };
    const { rflags } = state.registers;
    const set = interrupts === 'on' ? rflags | RFLAGS.IF : rflags & ~RFLAGS.IF;
    await target.machine.writeRegisters(state.cpu, { rip, rflags: set >>> 0 });
    return { kind: 'applied', what: `spins for ever, interrupts ${interrupts}` };
  },
};

const JUMP_TO_ITSELF = Buffer.from([0xeb, 0xfe]);

const known = new WeakMap<Xen['profile'], bigint | undefined>();

function jumpToItself(xen: Xen): bigint | undefined {
  if (!known.has(xen.profile)) {
    const { address, size } = xen.profile.image.find(({ name }) => name === '.text')!;
    const at = Buffer.from(xen.memory.bytes(address, size)).indexOf(JUMP_TO_ITSELF);
    known.set(xen.profile, at < 0 ? undefined : address + BigInt(at));
  }
  return known.get(xen.profile);
}
