/**
 * SoftwareBug: what a programmer's mistake would do, made at run time in code that is right.
 * - `skipped-instruction`: the instruction at the program counter is not executed;
 * - `wrong-branch`: the next conditional branch goes the way that its condition forbids;
 * - `null-pointer`: the next allocation of memory that succeeds hands NULL to its caller.
 *
 * The last two let the CPU, or the machine, go on to a place of their own; the point that is recorded is that place.
 */
import { z } from 'zod';
import type { Random } from '../../common/random.js';
import { decode } from '../../x86/decode.js';
import type { Applied, FaultModel, NotReached, Site } from '../model.js';
import { runToAny } from '../run-to.js';
import { executesXen, siteOf } from '../site.js';

const BUGS = ['skipped-instruction', 'wrong-branch', 'null-pointer'] as const;

const options = z.strictObject({
  type: z.literal('software-bug'),
  /** `any`: one of the others, each as likely. */
  bug: z.enum([...BUGS, 'any']).default('any'),
});

const choiceSchema = z.object({ bug: z.enum(BUGS) });

export const softwareBug: FaultModel<typeof options> = {
  name: 'software-bug',
  summary: 'an instruction is skipped, a branch goes the wrong way, or an allocation returns NULL',
  options,
  choose: (random: Random, { bug }) => ({ bug: bug === 'any' ? random.pick(BUGS) : bug }),
  async apply(site, choice) {
    switch (choiceSchema.parse(choice).bug) {
      case 'skipped-instruction':
        return skipInstruction(site);
      case 'wrong-branch':
        return takeWrongBranch(site);
      case 'null-pointer':
        return returnNull(site);
    }
  },
};

async function skipInstruction(site: Site): Promise<Applied> {
  const { target, state } = site;
  const { next, raw } = instructionAt(site)!;
  await target.machine.writeRegisters(state.cpu, { rip: next });
  return { kind: 'applied', what: `instruction "${raw}" skipped` };
}

/** Instructions that are executed at most until a conditional branch comes by. */
const BRANCH_LIMIT = 200;

async function takeWrongBranch(site: Site): Promise<Applied | NotReached> {
  const { target, control } = site;
  const { cpu } = site.state;
  let now = site;
  for (let done = 0; done < BRANCH_LIMIT; done++) {
    const instruction = instructionAt(now);
    if (instruction?.branch !== undefined) {
      await target.machine.stepOne(cpu);
      const { rip } = await target.machine.registers(cpu);
      const taken = rip === instruction.branch;
      await target.machine.writeRegisters(cpu, { rip: taken ? instruction.next : instruction.branch });
      return {
        kind: 'applied',
        what: `branch "${instruction.raw}" ${taken ? 'not taken' : 'taken'} wrongly`,
        site: now,
      };
    }
    await target.machine.stepOne(cpu);
    now = await siteOf(target, control, cpu);
    if (!executesXen(now)) break;
  }
  return { kind: 'not-reached', why: `no conditional branch within ${BRANCH_LIMIT} instructions` };
}

/** Xen's allocators that return an address or NULL (Xen 4.17: common/xmalloc_tlsf.c, common/page_alloc.c). */
const ALLOCATORS = ['_xmalloc', '_xzalloc', 'alloc_xenheap_pages', 'alloc_domheap_pages'];
const ALLOCATION_LIMIT_MS = 10_000;

async function returnNull({ target, control, xen }: Site): Promise<Applied | NotReached> {
  const end = performance.now() + ALLOCATION_LIMIT_MS;
  const entries = ALLOCATORS.filter((name) => xen.profile.hasSymbol(name)).map((name) => xen.symbol(name));
  const not = (why: string): NotReached => ({ kind: 'not-reached', why });
  while (performance.now() < end) {
    const entered = await runToAny(control, entries, end - performance.now());
    if (entered === undefined) return not(`nothing was allocated in Xen within ${ALLOCATION_LIMIT_MS} ms`);
    const inside = await siteOf(target, control, entered.cpu);
    const returns = xen.memory.u64(inside.state.registers.rsp);
    const stack = inside.state.registers.rsp;
    const name = xen.profile.describe(inside.state.registers.rip);
    const back = await target.machine.runOne(entered.cpu, { until: returns, timeoutMs: RETURN_LIMIT_MS });
    if (back.kind !== 'breakpoint') continue;
    const outside = await siteOf(target, control, entered.cpu);
    const { rip, rsp, rax } = outside.state.registers;
    if (rip !== returns || rsp !== stack + 8n || rax === 0n) continue;
    await target.machine.writeRegisters(entered.cpu, { rax: 0n });
    return { kind: 'applied', what: `NULL returned from ${name} instead of 0x${rax.toString(16)}`, site: outside };
  }
  return not('no allocation was seen to its end');
}

/** An allocation that waits longer for a lock, whose holder stands still, is left alone, in milliseconds. */
const RETURN_LIMIT_MS = 50;

interface Seen {
  readonly next: bigint;
  /** Where a conditional branch goes when it is taken. */
  readonly branch: bigint | undefined;
  /** As text. */
  readonly raw: string;
}

function instructionAt({ xen, state }: Site): Seen | undefined {
  const { rip } = state.registers;
  for (const { next, flow, target, raw } of decode(xen.memory.bytes(rip, 15), rip)) {
    return { next, branch: flow === 'branch' ? target : undefined, raw: raw.toString() };
  }
  return undefined;
}
