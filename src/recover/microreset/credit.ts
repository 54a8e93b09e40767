/**
 * The credit scheduler's metadata (Xen 4.17, common/sched/credit.c), for the step `scheduling`. Who runs is decided there; from
 * that follows what each CPU's run queue may hold: no unit that runs, and always the CPU's idle unit unless that runs (a CPU that
 * finds its queue empty is a BUG to Xen). Units that belong on a queue and are on none are woken by `lost-wakeups`.
 *
 * Which units take part in the accounting of credits stands on lists for each domain, with counts and a sum of weights; a unit
 * says by its own link whether it is on one. While a unit runs, `start_time` is a time; while it does not, it is what is left of
 * one: caught in between it would be charged for the whole time since the boot, or for none in future.
 */
import { allVcpus } from '../../xen/domains.js';
import { closedList } from '../../xen/list.js';
import type { XenObject } from '../../xen/object.js';
import { type CreditQueue, creditQueues } from '../../xen/scheduler.js';
import { TIMER_STATUS } from '../../xen/timers.js';
import type { StepContext } from '../step.js';

interface Unit {
  readonly name: string;
  readonly unit: XenObject;
  /** `struct csched_unit`. */
  readonly svc: XenObject;
  readonly idle: boolean;
  /** CPU that runs it. */
  readonly runsOn: number | undefined;
}

export function fixCredit(context: StepContext): void {
  const byScheduler = new Map<bigint, CreditQueue[]>();
  for (const queue of creditQueues(context.xen)) {
    const others = byScheduler.get(queue.scheduler.address);
    if (others === undefined) byScheduler.set(queue.scheduler.address, [queue]);
    else others.push(queue);
  }
  for (const queues of byScheduler.values()) new Credit(context, queues).fix();
}

class Credit {
  readonly #context: StepContext;
  readonly #queues: readonly CreditQueue[];
  readonly #private: XenObject;
  readonly #units: readonly Unit[];

  constructor(context: StepContext, queues: readonly CreditQueue[]) {
    const { xen, situation } = context;
    this.#context = context;
    this.#queues = queues;
    this.#private = xen.object('csched_private', queues[0]!.scheduler.u64('sched_data'));
    const resources = new Set(queues.map(({ resource }) => resource.address));
    const running = new Map(situation.cpus.map(({ cpu, current }) => [current.object.u64('sched_unit'), cpu]));
    const units = new Map<bigint, Unit>();
    for (const { object, domain, name } of allVcpus(situation.domains)) {
      const address = object.u64('sched_unit');
      if (address === 0n) continue;
      const unit = xen.object('sched_unit', address);
      const data = unit.u64('priv');
      if (data === 0n || !resources.has(unit.u64('res'))) continue;
      const svc = xen.object('csched_unit', data);
      units.set(data, { name, unit, svc, idle: domain.kind === 'idle', runsOn: running.get(address) });
    }
    this.#units = [...units.values()];
  }

  fix(): void {
    this.#fixQueues();
    for (const unit of this.#units) this.#fixStartTime(unit);
    for (const queue of this.#queues) this.#fixCpu(queue);
    this.#fixActive();
  }

  #fixQueues(): void {
    const { plan, xen } = this.#context;
    const byElement = new Map(this.#units.map((unit) => [unit.svc.at('runq_elem'), unit]));
    const queued = new Set<bigint>();
    for (const { cpu, resource, runq, data } of this.#queues) {
      const { nodes, broken } = closedList(xen.memory, runq);
      const belongs = (node: bigint): boolean => {
        const unit = byElement.get(node);
        if (unit === undefined) return broken === undefined;
        return unit.runsOn === undefined && !queued.has(node) && unit.unit.u64('res') === resource.address;
      };
      const reached = broken === undefined ? nodes : bothWays(xen.memory, runq, byElement);
      const isIdle = (node: bigint): boolean => byElement.get(node)?.idle === true;
      const work = reached.filter((node) => belongs(node) && !isIdle(node));
      const idle = this.#units.find((unit) => unit.unit.address === resource.u64('sched_unit_idle'));
      const last = idle !== undefined && idle.runsOn === undefined ? [idle.svc.at('runq_elem')] : [];
      const wanted = [...work, ...last];
      for (const node of wanted) queued.add(node);
      if (broken !== undefined || wanted.length !== nodes.length || wanted.some((node, n) => node !== nodes[n])) {
        plan.found(`run queue of CPU ${cpu}: ${broken ?? 'it does not hold what waits there'}; linked anew`);
        this.#context.plan.linkList(runq, wanted, `run queue of CPU ${cpu} linked anew`);
      }
      const runs = this.#units.some((unit) => unit.runsOn === cpu && !unit.idle) ? 1 : 0;
      plan.set(data, 'nr_runnable', work.length + runs, `units that run or wait on CPU ${cpu}`);
    }
    // Who says it is on a queue is not put on one.
    for (const [element, { name }] of byElement)
      if (!queued.has(element)) this.#context.plan.linkList(element, [], `${name} is on no run queue`);
  }

  #fixStartTime({ unit, svc, idle, runsOn, name }: Unit): void {
    if (idle) return;
    const { plan } = this.#context;
    const since = unit.i64('state_entry_time');
    const isTime = svc.i64('start_time') > since / 2n;
    if (isTime === (runsOn !== undefined)) return;
    const value = runsOn === undefined ? 0n : since;
    plan.set(svc, 'start_time', value, `${name} ${runsOn === undefined ? 'does not run' : 'runs'}`);
    plan.found(`${name} would be charged for a time that it did not run`);
  }

  /** Whether a CPU is idle, as others see it, and its tick, which stops while it is. */
  #fixCpu({ cpu, data }: CreditQueue): void {
    const { plan, abandoned } = this.#context;
    const current = this.#units.find((unit) => unit.runsOn === cpu);
    if (current === undefined) return;
    plan.setInMask(this.#private.u64('idlers'), cpu, current.idle, `CPU ${cpu} runs ${current.name}`);
    const ticks = data.num('ticker.status') !== TIMER_STATUS.inactive;
    if (current.idle || ticks || !abandoned.some((state) => state.cpu === cpu)) return;
    const now = current.unit.u64('state_entry_time');
    plan.call(cpu, 'set_timer', [data.at('ticker'), now], `CPU ${cpu} runs ${current.name} and does not tick`);
    plan.found(`CPU ${cpu} did not tick`);
  }

  #fixActive(): void {
    const { plan, xen, situation } = this.#context;
    const link = xen.offsetOf('csched_dom', 'active_sdom_elem');
    const list = this.#private.at('active_sdom');
    const { nodes, broken } = closedList(xen.memory, list);
    const known = new Map<bigint, number>();
    for (const { object, kind, id } of situation.domains) {
      const address = kind === 'idle' ? 0n : object.u64('sched_priv');
      if (address === 0n || !this.#units.some(({ svc }) => svc.u64('sdom') === address)) continue;
      known.set(address + link, this.#fixActiveUnits(xen.object('csched_dom', address), `d${id}`));
    }
    // A domain that is being destroyed is on this list and on no other.
    const others = nodes.filter((node) => !known.has(node));
    const listed = nodes.filter((node) => (known.get(node) ?? 0) > 0);
    const wanted = [...known].filter(([node, count]) => count > 0 && !listed.includes(node)).map(([node]) => node);
    const kept = [...others, ...listed, ...wanted];
    if (broken !== undefined || kept.length !== nodes.length) {
      plan.found(`domains that use credit: ${broken ?? 'others than those listed'}; linked anew`);
      this.#context.plan.linkList(list, kept, 'domains that use credit linked anew');
    }
    for (const [node, count] of known)
      if (count === 0) this.#context.plan.linkList(node, [], 'no unit of this domain uses credit');
    let weight = 0;
    for (const node of kept) {
      const sdom = xen.object('csched_dom', node - link);
      weight += sdom.num('weight') * sdom.num('active_unit_count');
    }
    if (plan.set(this.#private, 'weight', weight, 'weights of all units that use credit'))
      plan.found('the sum of weights was another');
  }

  /** The units of one domain that take part: those that say so. Returns how many. */
  #fixActiveUnits(sdom: XenObject, name: string): number {
    const { plan, xen } = this.#context;
    const own = this.#units.filter(({ svc }) => svc.u64('sdom') === sdom.address);
    const elements = own.map(({ svc }) => svc.at('active_unit_elem'));
    const active = elements.filter((element) => xen.memory.u64(element) !== element);
    const list = sdom.at('active_unit');
    const { nodes, broken } = closedList(xen.memory, list);
    if (broken !== undefined || nodes.length !== active.length || active.some((element) => !nodes.includes(element))) {
      plan.found(`units of ${name} that use credit: ${broken ?? 'others than those listed'}; linked anew`);
      this.#context.plan.linkList(list, active, `units of ${name} that use credit linked anew`);
      for (const element of elements)
        if (!active.includes(element)) this.#context.plan.linkList(element, [], 'it uses no credit');
    }
    plan.set(sdom, 'active_unit_count', active.length, `units of ${name} that use credit`);
    return active.length;
  }
}

/** Nodes that can be reached from either end of a broken list; `known` ones only. */
function bothWays(memory: XenObject['memory'], head: bigint, known: ReadonlyMap<bigint, unknown>): bigint[] {
  const follow = (offset: number): bigint[] => {
    const found = new Set<bigint>();
    for (let at = memory.u64(head, offset); known.has(at) && !found.has(at); at = memory.u64(at, offset)) found.add(at);
    return [...found];
  };
  return [...new Set([...follow(0), ...follow(8).reverse()])];
}
