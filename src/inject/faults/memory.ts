/**
 * Memory: one bit flips in data that Xen keeps, in a region of choice. Not one of the papers' faults; it stands for errors of RAM
 * and for the stray writes of a hypervisor that misbehaved earlier. Every byte of the region is as likely as any other, so
 * most flips hit what nobody reads any more.
 */
import { z } from 'zod';
import type { FaultModel } from '../model.js';
import { byteAt, REGIONS, spansOf } from '../regions.js';

const regionSchema = z.enum(REGIONS);

const options = z.strictObject({
  type: z.literal('memory'),
  /** What is hit; `any`: one of the others, each as likely. */
  region: z.enum([...REGIONS, 'any']).default('any'),
});

const choiceSchema = z.object({
  region: regionSchema,
  /** Where in the region, as a part of its size. */
  where: z.number().min(0).lt(1),
  bit: z.int().min(0).max(7),
});

export const memory: FaultModel<typeof options> = {
  name: 'memory',
  summary: "one bit of Xen's data flips: static or per-CPU data, heap, stacks, page frame table",
  options,
  choose(random, { region }) {
    return {
      region: region === 'any' ? random.pick(REGIONS) : region,
      where: random.fraction(),
      bit: random.integer(0, 7),
    };
  },
  async apply({ target, xen }, choice) {
    const { region, where, bit } = choiceSchema.parse(choice);
    const found = byteAt(spansOf(xen, region), where);
    if (found === undefined) return { kind: 'not-reached', why: `this Xen has no memory of the kind "${region}"` };
    const { address, total } = found;
    const { ram } = target.machine;
    const physical = xen.memory.physicalAddress(address);
    ram.write(physical, Uint8Array.of(xen.memory.u8(address) ^ (1 << bit)));
    const name = region === 'data' ? ` (${xen.profile.describe(address)})` : '';
    return {
      kind: 'applied',
      what: `bit ${bit} of the byte at 0x${address.toString(16)}${name} flipped, in ${region} (${Math.round(total / 1024)} KiB)`,
    };
  },
};
