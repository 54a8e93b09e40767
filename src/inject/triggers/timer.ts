/**
 * Timer (Le and Tamir, TDSC 2015, as used for NiLiHype): at a random time the machine is frozen, one of the CPUs that execute
 * Xen is chosen, and it executes a random number of instructions *in Xen* until it is hit; what it executes in guests in between
 * does not count. A CPU that hardly executes Xen hands the rest of its number over to another.
 */
import { z } from 'zod';
import { Random } from '../../common/random.js';
import type { Control } from '../control.js';
import { countWhileBusy } from '../count.js';
import type { InjectionTarget, NotReached, Reached, Site, TriggerModel } from '../model.js';
import { range } from '../options.js';
import { executesXen, sitesNow } from '../site.js';

const options = z.strictObject({
  type: z.literal('timer'),
  /** Host time until the machine is frozen, in milliseconds. */
  delayMs: range(0, 600_000).default([500, 6000]),
  /** Instructions that the chosen CPU executes in Xen after that. */
  instructions: range(0, 1_000_000).default([0, 20_000]),
  /** Host time from the freeze within which the point must be reached, in milliseconds. */
  limitMs: z.int().min(1).max(600_000).default(10_000),
});

const choiceSchema = z.object({
  delayMs: z.number(),
  instructions: z.number(),
  /** Which CPU is hit: the one at this place, modulo their number, among those in Xen, in ascending order. */
  victim: z.number(),
  /** Seed of the short times that pass between further looks when no CPU was in Xen. */
  retries: z.number(),
  limitMs: z.number(),
});

/**
 * A CPU that has not executed its number of instructions by then, and is out of Xen, hands the rest over to another one: an idle CPU
 * executes some hundred of Xen's instructions now and then. In milliseconds of host time.
 */
const PATIENCE_MS = 1500;
/** Short pause between two looks for a CPU in Xen, in milliseconds. */
const RETRY_MS: readonly [number, number] = [1, 20];
const LARGE = 2 ** 31 - 1;

export const timer: TriggerModel<typeof options> = {
  name: 'timer',
  summary: 'a random time, then a random number of instructions executed in Xen by one CPU',
  options,
  choose(random, { delayMs, instructions, limitMs }) {
    return {
      delayMs: random.integer(...delayMs),
      instructions: random.integer(...instructions),
      victim: random.integer(0, LARGE),
      retries: random.integer(0, LARGE),
      limitMs,
    };
  },
  async reach(target, control, choice): Promise<Reached | NotReached> {
    const { delayMs, instructions, victim, retries, limitMs } = choiceSchema.parse(choice);
    await control.runFor(delayMs);
    const deadline = performance.now() + limitMs;
    const idle = new Set<number>();
    let done = 0;
    for (;;) {
      const site = await siteInXen(target, control, { victim, retries, deadline, except: idle });
      if (site === undefined) return notReached(limitMs, done, instructions);
      const waitUntil = performance.now() + PATIENCE_MS;
      const result = await countWhileBusy(site, { instructions: instructions - done, deadline, waitUntil });
      if (result.kind === 'reached') return { ...result, steps: done + result.steps };
      if (result.kind === 'not-reached') return result;
      done += result.done;
      idle.add(site.state.cpu);
    }
  },
};

const notReached = (limitMs: number, done: number, instructions: number): NotReached => ({
  kind: 'not-reached',
  why: `no CPU was found in Xen within ${limitMs} ms${done === 0 ? '' : `, after ${done} of ${instructions} instructions`}`,
});

export interface Draw {
  readonly victim: number;
  readonly retries: number;
  /** performance.now() */
  readonly deadline: number;
  /** CPUs that are not chosen. */
  readonly except?: ReadonlySet<number>;
}

/** Looks for CPUs in Xen, again and again after short times, and chooses one of them. */
export async function siteInXen(
  target: InjectionTarget,
  control: Control,
  { victim, retries, deadline, except }: Draw,
): Promise<Site | undefined> {
  const random = new Random(retries);
  while (performance.now() < deadline) {
    const inside = (await sitesNow(target, control)).filter(executesXen).filter((site) => !except?.has(site.state.cpu));
    if (inside.length > 0) return inside[victim % inside.length];
    await control.runFor(random.integer(...RETRY_MS));
  }
  return undefined;
}
