/**
 * SoftwareBug: what a programmer's mistake would do, made at run time in code that is right.
 * - `skipped-instruction`: the instruction at the program counter is not executed;
 * - `wrong-branch`: the next conditional branch goes the way that its condition forbids;
 * - `null-pointer`: the next allocation of memory that succeeds hands NULL to its caller.
 *
 * The last two let the CPU, or the machine, go on to a place of their own; the point that is recorded is that place.
 */
import { z } from 'zod';
import type { Instruction } from '../../x86/decode.js';
import { countInXen } from '../count.js';
import { instructionAt, instructionsWhere } from '../instructions.js';
import type { Applied, FaultModel, NotReached, Site } from '../model.js';
import { addressOf, knownOf } from '../names.js';
import { runToAny } from '../run-to.js';
import { siteOf } from '../site.js';

const BUGS = ['skipped-instruction', 'wrong-branch', 'null-pointer'] as const;

const options = z.strictObject({
  type: z.literal('software-bug'),
  /** `any`: one of the others, each as likely. */
  bug: z.enum([...BUGS, 'any']).default('any'),
  /** For `null-pointer`: only this function returns NULL; default any that hands out memory, a page or a mapping. */
  allocator: z.string().min(1).optional(),
});

const choiceSchema = z.object({ bug: z.enum(BUGS), allocator: z.string().optional() });

export const softwareBug: FaultModel<typeof options> = {
  name: 'software-bug',
  summary: 'an instruction is skipped, a branch goes the wrong way, or an allocation returns NULL',
  options,
  choose(random, { bug, allocator }) {
    return { bug: bug === 'any' ? random.pick(BUGS) : bug, ...(allocator === undefined ? {} : { allocator }) };
  },
  async apply(site, choice) {
    const { bug, allocator } = choiceSchema.parse(choice);
    switch (bug) {
      case 'skipped-instruction':
        return skipInstruction(site);
      case 'wrong-branch':
        return takeWrongBranch(site);
      case 'null-pointer':
        return returnNull(site, allocator);
    }
  },
};

async function skipInstruction(site: Site): Promise<Applied | NotReached> {
  const { target, state } = site;
  const instruction = instructionAt(site, state.registers.rip, tell);
  if (instruction === undefined) return { kind: 'not-reached', why: 'the code at the program counter is none' };
  await target.machine.writeRegisters(state.cpu, { rip: instruction.next });
  return { kind: 'applied', what: `instruction "${instruction.text}" skipped` };
}

/** A conditional branch that takes longer to come by is not waited for, in milliseconds of host time. */
const BRANCH_LIMIT_MS = 3000;

async function takeWrongBranch(site: Site): Promise<Applied | NotReached> {
  const { machine } = site.target;
  const counts = instructionsWhere(site, ({ flow, target }) => flow === 'branch' && target !== undefined);
  const reached = await countInXen(site, { instructions: 0, deadline: performance.now() + BRANCH_LIMIT_MS, counts });
  if (reached.kind === 'not-reached') return { kind: 'not-reached', why: 'no conditional branch came by' };
  const { state } = reached.site;
  const { branch, next, text } = instructionAt(reached.site, state.registers.rip, tell)!;
  await machine.stepOne(state.cpu);
  const { rip } = await machine.registers(state.cpu);
  const taken = rip === branch;
  await machine.writeRegisters(state.cpu, { rip: taken ? next : branch! });
  return { kind: 'applied', what: `branch "${text}" ${taken ? 'not taken' : 'taken'} wrongly`, site: reached.site };
}

/**
 * Functions of Xen that hand out memory, a page or a mapping (Xen 4.17: common/xmalloc_tlsf.c, common/page_alloc.c,
 * arch/x86/domain_page.c, common/vmap.c). A box whose VMs just work allocates little else than mappings.
 */
const ALLOCATORS = ['_xmalloc', '_xzalloc', 'alloc_xenheap_pages', 'alloc_domheap_pages', 'map_domain_page', '__vmap'];
const ALLOCATION_LIMIT_MS = 10_000;

async function returnNull({ target, control, xen }: Site, allocator?: string): Promise<Applied | NotReached> {
  const end = performance.now() + ALLOCATION_LIMIT_MS;
  const entries = allocator === undefined ? knownOf(xen, ALLOCATORS) : [addressOf(xen, allocator)];
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
  readonly text: string;
}

const tell = ({ next, flow, target, raw }: Instruction): Seen => ({
  next,
  branch: flow === 'branch' ? target : undefined,
  text: raw.toString(),
});
