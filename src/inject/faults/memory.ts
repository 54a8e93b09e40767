/**
 * Memory: one bit flips in data that Xen keeps, in a region of choice. Not one of the papers' faults; it stands for errors of RAM
 * and for the stray writes of a hypervisor that misbehaved earlier. Every byte of the region is as likely as any other, so
 * most flips hit what nobody reads any more. `next-read` hits what the CPU is about to read, so that most flips matter.
 */
import { z } from 'zod';
import type { Applied, FaultModel, NotReached, Site } from '../model.js';
import { runToNextRead } from '../next-read.js';
import { byteAt, REGIONS, type Region, spansOf } from '../regions.js';

const NEXT_READ = 'next-read';

const options = z.strictObject({
  type: z.literal('memory'),
  /** What is hit; `any`: one of the parts of memory, each as likely; `next-read`: whatever of Xen's the CPU reads next. */
  region: z.enum([...REGIONS, 'any', NEXT_READ]).default('any'),
});

const choiceSchema = z.object({
  region: z.enum([...REGIONS, NEXT_READ]),
  /** Where in the region, or in what is read, as a part of its size. */
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
  async apply(site, choice) {
    const { region, where, bit } = choiceSchema.parse(choice);
    return region === NEXT_READ ? flipNextRead(site, where, bit) : flipIn(site, region, where, bit);
  },
};

function flipIn(site: Site, region: Region, where: number, bit: number): Applied | NotReached {
  const { xen } = site;
  const found = byteAt(spansOf(xen, region), where);
  if (found === undefined) return { kind: 'not-reached', why: `this Xen has no memory of the kind "${region}"` };
  const { address, total } = found;
  flip(site, address, bit);
  const name = region === 'data' ? ` (${xen.profile.describe(address)})` : '';
  return {
    kind: 'applied',
    what: `bit ${bit} of the byte at 0x${address.toString(16)}${name} flipped, in ${region} (${Math.round(total / 1024)} KiB)`,
  };
}

async function flipNextRead(site: Site, where: number, bit: number): Promise<Applied | NotReached> {
  const read = await runToNextRead(site);
  if ('kind' in read) return read;
  const address = read.address + BigInt(Math.floor(where * read.size));
  flip(read.site, address, bit);
  return {
    kind: 'applied',
    what: `bit ${bit} of the byte at 0x${address.toString(16)} flipped before "${read.text}" read it`,
    site: read.site,
  };
}

function flip({ target, xen }: Site, address: bigint, bit: number): void {
  target.machine.ram.write(xen.memory.physicalAddress(address), Uint8Array.of(xen.memory.u8(address) ^ (1 << bit)));
}
