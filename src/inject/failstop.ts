/**
 * Failstop (Zhou and Tamir, DSN 2018): the program counter of a CPU that executes hypervisor code becomes 0.
 *
 * The point is chosen in two levels, as the papers do: a random time, then a random number of instructions executed
 * in the hypervisor. Freezing a machine stops CPUs between QEMU's translation blocks, so the second level also takes care
 * that every instruction of a block can be hit, not just the first.
 */
import { NinelivesError } from '../common/errors.js';
import type { Random } from '../common/random.js';
import type { Machine } from '../machine/machine.js';
import type { View } from '../x86/view.js';
import { type CpuState, readSituation } from '../xen/cpus.js';
import { listDomains } from '../xen/domains.js';
import type { EntryFacts } from '../xen/entry.js';
import type { Xen } from '../xen/xen.js';

export interface InjectionPoint {
  readonly cpu: number;
  /** Whose thread was hit, as Xen prints it. */
  readonly vcpu: string;
  /** `function+offset`. */
  readonly at: string;
  readonly hypercall?: string;
  /** Innermost first. */
  readonly backtrace: readonly string[];
  /** Instructions executed in Xen between the freeze and the injection. */
  readonly steps: number;
}

export interface FailstopOptions {
  /** Range of the random delay before the freeze, in milliseconds of host time. */
  readonly delayMs: readonly [number, number];
  /** At most this many instructions are executed after the freeze. 0 to 20000; each costs about half a millisecond. */
  readonly maxSteps: number;
}

export const DEFAULT_FAILSTOP: FailstopOptions = { delayMs: [50, 600], maxSteps: 60 };

/** What the injector needs of the box: its machine and how to see Xen in it. */
export interface InjectionTarget {
  readonly machine: Machine;
  readonly facts: EntryFacts;
  at(view: View): Xen;
}

const ATTEMPTS = 400;

/**
 * Waits, freezes, picks a CPU in Xen, steps it, and breaks it. The machine stands still afterwards, broken: `resume()`
 * lets the failure happen.
 * @throws NL_TIMEOUT when no CPU was found in Xen
 */
export async function injectFailstop(
  target: InjectionTarget,
  random: Random,
  options: FailstopOptions = DEFAULT_FAILSTOP,
): Promise<InjectionPoint> {
  const { machine } = target;
  const [shortest, longest] = options.delayMs;
  let delay = random.integer(shortest, longest);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    await machine.resume();
    await new Promise((resolve) => setTimeout(resolve, delay));
    await machine.freeze();
    const victim = await pickVictim(target, random);
    if (victim !== undefined) {
      const point = await stepAndBreak(target, victim, random.integer(0, options.maxSteps));
      if (point !== undefined) return point;
    }
    delay = random.integer(1, 20);
  }
  throw new NinelivesError('NL_TIMEOUT', 'no CPU was found executing Xen', { fix: 'Give the guests more work.' });
}

async function pickVictim(target: InjectionTarget, random: Random): Promise<CpuState | undefined> {
  const inside = (await situation(target)).filter((cpu) => cpu.where === 'xen');
  return inside.length === 0 ? undefined : random.pick(inside);
}

async function situation({ machine, facts, at }: InjectionTarget): Promise<readonly CpuState[]> {
  const xen = at(await machine.capture());
  return readSituation(xen, facts, listDomains(xen)).cpus.filter((cpu) => xen.profile.isText(cpu.registers.rip));
}

/** `undefined` when the CPU left Xen before it had executed that many instructions. */
async function stepAndBreak(
  target: InjectionTarget,
  victim: CpuState,
  steps: number,
): Promise<InjectionPoint | undefined> {
  const { machine, at } = target;
  const { cpu } = victim;
  for (let done = 0; done < steps; done++) await machine.stepOne(cpu);
  const now = (await situation(target)).find((state) => state.cpu === cpu && state.where === 'xen');
  if (now === undefined) return undefined;
  const xen = at(await machine.capture());
  await machine.writeRegisters(cpu, { rip: 0n });
  return {
    cpu,
    vcpu: now.current.name,
    at: xen.profile.describe(now.registers.rip),
    ...('name' in now.hypercall ? { hypercall: now.hypercall.name } : {}),
    backtrace: now.backtrace.map((entry) => entry.text),
    steps,
  };
}
