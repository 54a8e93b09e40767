/**
 * CPU pools and their schedulers (Xen 4.17, common/sched/cpupool.c and core.c). Whatever Xen does to a vCPU, it asks the vCPU's
 * domain for its pool, the pool for its scheduler, and calls a function in that one's table. All of it follows from elsewhere:
 * - a pool's scheduler, and the CPUs that belong to the pool, from the CPUs' scheduling resources;
 * - what a scheduler calls, and its name, from the definition in Xen's constants that its table was copied from;
 * - where credit2's own data are, from the list of run queues, which has its head there;
 * - the list of pools from the pools that CPUs and domains name.
 *
 * The pool that Xen makes first, its masks of CPUs, its scheduler and what credit2 keeps lie side by side on the heap, so that one
 * CPU that goes astray among them hits several.
 */
import { type CpuPool, cpuPools } from '../../xen/cpu-pools.js';
import { closedList } from '../../xen/list.js';
import type { XenObject } from '../../xen/object.js';
import { kindOf, queuesNamedBy } from '../../xen/scheduler.js';
import type { Xen } from '../../xen/xen.js';
import type { StepContext } from '../step.js';

const DEFINITIONS = ['credit2', 'credit', 'rtds', 'null', 'arinc653'].map((name) => `sched_${name}_def`);

export function fixCpuPools(context: StepContext): void {
  const { plan, xen, situation } = context;
  const pools = cpuPools(xen, situation.domains);
  for (const pool of pools) {
    const name = `CPU pool ${pool.object.num('cpupool_id')}`;
    const repaired = [...fixScheduler(context, pool, name), ...(isMoving(xen) ? [] : fixMasks(context, pool, name))];
    if (repaired.length > 0) plan.found(`${name}: ${repaired.join(', ')} written again`);
  }
  fixList(context, pools);
}

function fixScheduler(context: StepContext, { object, scheduler, cpus }: CpuPool, name: string): string[] {
  const { plan, xen } = context;
  if (scheduler === undefined) return [];
  const definition = definitionOf(xen, scheduler);
  if (definition === undefined) return [];
  const reason = `scheduler of ${name}`;
  const own = xen.object('scheduler', scheduler);
  return [
    copyDefinition(xen, own, definition, (at, bytes) => plan.writeBytes(at, bytes, reason)) &&
      'what its scheduler calls',
    fixCredit2Place(context, own, cpus) && 'where its data are',
    plan.set(own, 'cpupool', object.address, reason) && "its scheduler's pool",
    plan.set(object, 'sched', scheduler, reason) && 'scheduler',
  ].filter((word) => word !== false);
}

/** The list of run queues has one node that is none: its head, in the scheduler's data. */
function fixCredit2Place({ plan, xen }: StepContext, scheduler: XenObject, cpus: readonly number[]): boolean {
  if (kindOf(xen, scheduler) !== 'credit2') return false;
  const queues = queuesNamedBy(xen, cpus).map((queue) => queue.at('rql'));
  if (queues.length === 0) return false;
  const { nodes, broken } = closedList(xen.memory, queues[0]!);
  const [head, ...others] = nodes.filter((node) => !queues.includes(node));
  if (broken !== undefined || head === undefined || others.length > 0) return false;
  const data = head - xen.offsetOf('csched2_private', 'rql');
  return plan.set(scheduler, 'sched_data', data, 'the list of run queues has its head there');
}

/** The constant that most of a scheduler's functions agree with. */
function definitionOf(xen: Xen, scheduler: bigint): XenObject | undefined {
  const first = xen.offsetOf('scheduler', 'global_init');
  const size = BigInt(xen.sizeOf('scheduler'));
  for (const symbol of DEFINITIONS) {
    if (!xen.profile.hasSymbol(symbol)) continue;
    const definition = xen.symbol(symbol);
    if (!xen.memory.isMapped(definition) || !xen.memory.isMapped(definition + size - 1n)) continue;
    let functions = 0;
    let same = 0;
    for (let at = first; at + 8n <= size; at += 8n) {
      const word = xen.memory.u64(definition + at);
      if (!xen.profile.isText(word)) continue;
      functions++;
      if (xen.memory.u64(scheduler + at) === word) same++;
    }
    if (2 * same > functions) return xen.object('scheduler', definition);
  }
  return undefined;
}

/** All but the two pointers between, which are the scheduler's own: its data and its pool. */
function copyDefinition(
  xen: Xen,
  own: XenObject,
  definition: XenObject,
  write: (address: bigint, bytes: Uint8Array) => boolean,
): boolean {
  const parts = [
    [0n, xen.offsetOf('scheduler', 'sched_data')],
    [xen.offsetOf('scheduler', 'global_init'), BigInt(xen.sizeOf('scheduler'))],
  ] as const;
  return parts
    .map(([from, to]) =>
      write(own.address + from, Uint8Array.from(xen.memory.bytes(definition.address + from, Number(to - from)))),
    )
    .includes(true);
}

/** A toolstack moves a CPU to another pool: until it is there, masks and resources say different things. */
const isMoving = (xen: Xen): boolean =>
  xen.profile.hasSymbol('cpupool_cpu_moving') && xen.memory.u64(xen.symbol('cpupool_cpu_moving')) !== 0n;

/** Each CPU is scheduled on its own (`fixed-fields`), so that the masks of CPUs and of resources are the same. */
function fixMasks({ plan, xen }: StepContext, { object, cpus }: CpuPool, name: string): string[] {
  const fields = { cpu_valid: 'CPUs', res_valid: 'scheduling resources' } as const;
  const repaired: string[] = [];
  const bytes = maskOf(xen, cpus);
  for (const [field, what] of Object.entries(fields)) {
    const mask = object.u64(field);
    if (mask % 8n !== 0n || !xen.memory.isMapped(mask) || !xen.memory.isMapped(mask + BigInt(bytes.length - 1)))
      continue;
    if (plan.writeBytes(mask, bytes, `${what} of ${name}`)) repaired.push(what);
  }
  return repaired;
}

/** With more than 256 CPUs possible, Xen allocates a mask's words for those that there are only (xen/cpumask.h: nr_cpumask_bits). */
export function maskOf(xen: Xen, cpus: readonly number[]): Uint8Array {
  const whole = xen.sizeOf('cpumask');
  const bytes = new Uint8Array(whole <= 32 ? whole : 8 * Math.ceil(xen.cpuCount / 64));
  for (const cpu of cpus) bytes[cpu >> 3]! |= 1 << (cpu & 7);
  return bytes;
}

/** In the order of their numbers. Where Xen counts more pools than were found, a list without these would lose them. */
function fixList({ plan, xen }: StepContext, pools: readonly CpuPool[]): void {
  if (!xen.profile.hasSymbol('cpupool_list') || !xen.profile.hasSymbol('n_cpupools')) return;
  const head = xen.symbol('cpupool_list');
  const { broken } = closedList(xen.memory, head);
  if (broken === undefined || pools.length === 0 || xen.memory.u32(xen.symbol('n_cpupools')) !== pools.length) return;
  plan.linkList(
    head,
    pools.map(({ object }) => object.at('list')),
    'CPU pools linked anew',
  );
  plan.found(`list of CPU pools: ${broken}; linked anew`);
}
