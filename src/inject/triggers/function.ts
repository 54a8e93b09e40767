/** Function: a CPU is about to execute a named place in Xen for the k-th time after a random time. */
import { z } from 'zod';
import type { NotReached, Reached, TriggerModel } from '../model.js';
import { addressOf } from '../names.js';
import { range } from '../options.js';
import { runToAny } from '../run-to.js';
import { siteOf } from '../site.js';

const options = z.strictObject({
  type: z.literal('function'),
  /** Name of a function of Xen; a static one whose name several files use as `file.c#name`. */
  function: z.string().min(1),
  /** Bytes from its beginning. */
  offset: z.int().min(0).max(65_535).default(0),
  /** Which time it is hit, from 1, drawn from this range. */
  hit: range(1, 100_000).default([1, 1]),
  /** Only hits by this CPU count; default all. */
  cpu: z.int().min(0).max(255).optional(),
  /** Host time until hits begin to count, in milliseconds. */
  delayMs: range(0, 600_000).default([500, 6000]),
  /** Host time after that within which the last hit must come, in milliseconds. */
  limitMs: z.int().min(1).max(600_000).default(10_000),
});

const choiceSchema = z.object({
  function: z.string(),
  offset: z.number(),
  hit: z.number(),
  cpu: z.number().optional(),
  delayMs: z.number(),
  limitMs: z.number(),
});

export const functionTrigger: TriggerModel<typeof options> = {
  name: 'function',
  summary: 'the k-th time that a named function, or a place in it, is reached',
  options,
  choose(random, { function: name, offset, hit, cpu, delayMs, limitMs }) {
    return {
      function: name,
      offset,
      hit: random.integer(...hit),
      ...(cpu === undefined ? {} : { cpu }),
      delayMs: random.integer(...delayMs),
      limitMs,
    };
  },
  async reach(target, control, choice): Promise<Reached | NotReached> {
    const { function: name, offset, hit, cpu, delayMs, limitMs } = choiceSchema.parse(choice);
    await control.runFor(delayMs);
    const { xen } = await siteOf(target, control, 0);
    const address = addressOf(xen, name) + BigInt(offset);
    const deadline = performance.now() + limitMs;
    let hits = 0;
    while (performance.now() < deadline) {
      const arrival = await runToAny(control, [address], deadline - performance.now());
      if (arrival === undefined) break;
      if (cpu !== undefined && arrival.cpu !== cpu) continue;
      if (++hits === hit)
        return { kind: 'reached', site: await siteOf(target, control, arrival.cpu), steps: 0, exact: true };
    }
    const on = cpu === undefined ? '' : ` by CPU ${cpu}`;
    return { kind: 'not-reached', why: `${name} was reached ${hits} of ${hit} times${on} within ${limitMs} ms` };
  },
};
