/**
 * Subsystem: a CPU has entered a part of Xen for the k-th time, counted over all CPUs and over all functions of the part, after a
 * random time; it is hit after a random number of instructions that it executes in the part's own code. When it leaves Xen before
 * that, the count goes on with the next CPU that enters the part.
 */
import { z } from 'zod';
import { countInStay } from '../count.js';
import type { NotReached, Reached, TriggerModel } from '../model.js';
import { range } from '../options.js';
import { runToAny } from '../run-to.js';
import { siteOf } from '../site.js';
import { codeOf, isIn, SUBSYSTEMS } from '../subsystems.js';

const subsystemSchema = z.enum(SUBSYSTEMS);

const options = z.strictObject({
  type: z.literal('subsystem'),
  subsystem: subsystemSchema,
  /** Host time until entries begin to count, in milliseconds. */
  delayMs: range(0, 600_000).default([500, 6000]),
  /** Which entry into one of the subsystem's functions it is, from 1. */
  entry: range(1, 10_000).default([1, 20]),
  /** Instructions that are executed in the subsystem's code from there. */
  instructions: range(0, 1_000_000).default([0, 200]),
  /** Host time after the delay within which the point must be reached, in milliseconds. */
  limitMs: z.int().min(1).max(600_000).default(10_000),
});

const choiceSchema = z.object({
  subsystem: subsystemSchema,
  delayMs: z.number(),
  entry: z.number(),
  instructions: z.number(),
  limitMs: z.number(),
});

export const subsystem: TriggerModel<typeof options> = {
  name: 'subsystem',
  summary: 'while a CPU executes the scheduler, timers, memory management, grant tables or event channels',
  options,
  choose(random, { subsystem: name, delayMs, entry, instructions, limitMs }) {
    return {
      subsystem: name,
      delayMs: random.integer(...delayMs),
      entry: random.integer(...entry),
      instructions: random.integer(...instructions),
      limitMs,
    };
  },
  async reach(target, control, choice): Promise<Reached | NotReached> {
    const { subsystem: name, delayMs, entry, instructions, limitMs } = choiceSchema.parse(choice);
    await control.runFor(delayMs);
    const { profile } = (await siteOf(target, control, 0)).xen;
    const ranges = codeOf(profile, name);
    const entries = ranges.map(({ start }) => start);
    const deadline = performance.now() + limitMs;
    let seen = 0;
    let steps = 0;
    while (performance.now() < deadline) {
      const arrival = await runToAny(control, entries, deadline - performance.now());
      if (arrival === undefined) break;
      if (++seen < entry) continue;
      const site = await siteOf(target, control, arrival.cpu);
      const counts = (rip: bigint): boolean => isIn(ranges, rip);
      const result = await countInStay(site, { instructions: instructions - steps, deadline, counts });
      if (result.kind === 'reached') return { ...result, steps: instructions };
      if (result.kind === 'not-reached') return result;
      steps += result.done;
    }
    const so =
      seen < entry ? `was entered ${seen} of ${entry} times` : `executed ${steps} of ${instructions} instructions`;
    return { kind: 'not-reached', why: `${name} ${so} within ${limitMs} ms` };
  },
};
