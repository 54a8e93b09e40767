/**
 * Fields that never change and follow from where their structure stands: a vCPU's number, domain and successor, the same of a scheduling
 * unit, the CPU that a scheduling resource stands for, CPU pools and what their schedulers call (`cpu-pools.ts`), what a timer calls and with what. A CPU that executes damaged code stores through the pointers that it has at hand, and
 * these fields, at the beginning of the structures that Xen handles most, are what it hits: in a campaign of code faults half of
 * the recoveries that failed again and again did so since one of them was wrong.
 */
import { allVcpus, type Domain, VCPU_LIMIT, type Vcpu } from '../../xen/domains.js';
import { guestLines } from '../../xen/interrupts.js';
import type { XenObject } from '../../xen/object.js';
import { schedulerResources } from '../../xen/scheduler.js';
import { overflowList, TIMER_STATUS, timerQueue } from '../../xen/timers.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';
import { fixCpuPools } from './cpu-pools.js';

export const fixedFields: Step = {
  name: 'fixed-fields',
  removes:
    'wrong values in fields that never change: identities of vCPUs and units, CPU pools, what schedulers and timers call',
  source: 'ours; Xen 4.17 common/sched/core.c, common/timer.c',
  run(context) {
    for (const domain of context.situation.domains) {
      repairDomain(context, domain);
      const units = domain.vcpus.map((vcpu) => unitOf(context.xen, vcpu));
      for (const [n, vcpu] of domain.vcpus.entries()) {
        repairVcpu(context, vcpu, units[n]!, { vcpu: domain.vcpus[n + 1]?.address ?? 0n, unit: units[n + 1] ?? 0n });
      }
    }
    repairResources(context);
    let queued: ReadonlyMap<bigint, number> | undefined;
    for (const timer of timersWithPurpose(context)) {
      repairTimer(context, timer, (address) => {
        queued ??= cpusOfTimers(context.xen);
        return queued.get(address) ?? 0;
      });
    }
    fixCpuPools(context);
  },
};

/** Of a table that has places for vCPUs to come the size is not known: it is corrected only where it cannot be. */
function repairDomain({ plan }: StepContext, { object, vcpus, id, kind }: Domain): void {
  if (kind === 'idle' || object.num('max_vcpus') <= VCPU_LIMIT) return;
  plan.set(object, 'max_vcpus', vcpus.length, `d${id} has as many vCPUs as its table names`);
  plan.found(`d${id}: number of vCPUs written again`);
}

/** Each CPU is scheduled on its own, and was when the profile was verified: Xen changes that only at boot (`sched-gran`). */
function repairResources({ plan, xen }: StepContext): void {
  for (const [cpu, resource] of schedulerResources(xen).entries()) {
    const reason = `CPU ${cpu} is scheduled on its own`;
    const repaired = [
      plan.set(resource, 'master_cpu', cpu, reason) && 'first CPU',
      plan.set(resource, 'granularity', 1, reason) && 'number of CPUs',
    ].filter((word) => word !== false);
    if (repaired.length > 0) plan.found(`scheduling of CPU ${cpu}: ${repaired.join(', ')} written again`);
  }
}

/** @param next of the same domain: vCPUs and scheduling units hang in lists in the order of their numbers */
function repairVcpu(
  { plan, xen }: StepContext,
  vcpu: Vcpu,
  at: bigint,
  next: { readonly vcpu: bigint; readonly unit: bigint },
): void {
  const { object, domain, address, id, name } = vcpu;
  const reason = `${name} is what its domain's table says`;
  const repaired = [
    plan.set(object, 'vcpu_id', id, reason) && 'number',
    plan.set(object, 'domain', domain.address, reason) && 'domain',
    plan.set(object, 'next_in_list', next.vcpu, reason) && 'next vCPU',
    plan.set(object, 'sched_unit', at, reason) && 'scheduling unit',
    domain.kind === 'idle' && plan.set(object, 'arch.cr3', idlePageTable(xen), reason) && 'page table',
  ];
  if (xen.memory.isMapped(at)) {
    const unit = xen.object('sched_unit', at);
    const shared = domain.vcpus.some((other) => other.address !== address && other.object.u64('sched_unit') === at);
    if (!shared) {
      repaired.push(plan.set(unit, 'domain', domain.address, reason) && "scheduling unit's domain");
      repaired.push(plan.set(unit, 'vcpu_list', address, reason) && "scheduling unit's vCPU");
      repaired.push(plan.set(unit, 'unit_id', id, reason) && "scheduling unit's number");
      repaired.push(plan.set(unit, 'next_in_list', next.unit, reason) && 'next scheduling unit');
      if (vcpu === domain.vcpus[0])
        repaired.push(plan.set(domain.object, 'sched_unit_list', at, reason) && "domain's first scheduling unit");
    }
  }
  const said = repaired.filter((word) => word !== false);
  if (said.length > 0) plan.found(`${name}: ${said.join(', ')} written again`);
}

/** What all idle vCPUs run on (Xen 4.17, arch/x86/domain.c: arch_vcpu_create). */
const idlePageTable = (xen: Xen): bigint => BigInt(xen.memory.physicalAddress(xen.symbol('idle_pg_table')));

/**
 * The unit that a vCPU names, or, where that is one of another domain, its own: of an idle vCPU the idle unit of its CPU, of others
 * the one in their domain's list that says it is theirs (Xen 4.17, common/sched/core.c). A switch that takes a vCPU for the idle one
 * gives it the CPU's idle unit (sched_context_switch). The idle vCPU in turn has a guest's unit by right while it runs in its place
 * (sched_switch_units); no thread of a guest is under way any more, and so it is idle in its own name again.
 */
function unitOf(xen: Xen, { object, domain, address, id }: Vcpu): bigint {
  const named = object.u64('sched_unit');
  const its = unitVcpu(xen, named);
  if (domain.vcpus.some((vcpu) => vcpu.address === its)) return named;
  if (domain.kind === 'idle') {
    const idle = id < xen.cpuCount ? schedulerResources(xen)[id]!.u64('sched_unit_idle') : 0n;
    return xen.memory.isMapped(idle) ? idle : named;
  }
  let at = domain.object.u64('sched_unit_list');
  for (let n = 0; n < domain.vcpus.length && xen.memory.isMapped(at); n++) {
    if (unitVcpu(xen, at) === address) return at;
    at = xen.object('sched_unit', at).u64('next_in_list');
  }
  return named;
}

const unitVcpu = (xen: Xen, unit: bigint): bigint | undefined =>
  xen.memory.isMapped(unit) ? xen.object('sched_unit', unit).u64('vcpu_list') : undefined;

interface PurposefulTimer {
  readonly timer: XenObject;
  readonly name: string;
  /** Function of Xen that it calls. */
  readonly calls: string;
  readonly data: bigint;
  /** Of a timer that is made with its CPU, and stays on it. */
  readonly cpu?: number;
}

const VCPU_TIMERS = [
  ['periodic_timer', 'vcpu_periodic_timer_fn'],
  ['singleshot_timer', 'vcpu_singleshot_timer_fn'],
  ['poll_timer', 'poll_timer_fn'],
] as const;

function* timersWithPurpose({ xen, situation }: StepContext): Generator<PurposefulTimer> {
  const inside = (object: XenObject, field: string): XenObject => xen.object('timer', object.at(field));
  for (const { object, address, name } of allVcpus(situation.domains)) {
    for (const [field, calls] of VCPU_TIMERS)
      yield { timer: inside(object, field), name: `${name}.${field}`, calls, data: address };
  }
  for (const [cpu, resource] of schedulerResources(xen).entries())
    yield { timer: inside(resource, 's_timer'), name: `s_timer of CPU ${cpu}`, calls: 's_timer_fn', data: 0n, cpu };
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const rcu = xen.object('rcu_data', xen.perCpu('rcu_data', cpu));
    const name = `idle_timer of CPU ${cpu}`;
    yield { timer: inside(rcu, 'idle_timer'), name, calls: 'rcu_idle_timer_handler', data: rcu.address, cpu };
  }
  for (const { irq, line, action } of guestLines(xen)) {
    const name = `eoi_timer of IRQ ${irq}`;
    yield { timer: inside(action, 'eoi_timer'), name, calls: 'irq_guest_eoi_timer_fn', data: line.address };
  }
  const calibration = xen.object('timer', xen.symbol('calibration_timer'));
  yield { timer: calibration, name: 'calibration_timer', calls: 'time_calibration', data: 0n };
}

/** @param cpuOf tells the CPU on whose queue a timer is */
function repairTimer(
  { plan, xen }: StepContext,
  { timer, name, calls, data, cpu }: PurposefulTimer,
  cpuOf: (timer: bigint) => number,
): void {
  const isMade = cpu !== undefined || timer.u64('function') !== 0n || timer.num('status') !== TIMER_STATUS.invalid;
  if (!isMade || !xen.profile.hasSymbol(calls)) return;
  const reason = `${name} calls ${calls}`;
  const repaired = [
    plan.set(timer, 'function', xen.symbol(calls), reason) && 'function',
    plan.set(timer, 'data', data, reason) && 'argument',
    timer.num('status') > TIMER_STATUS.inList &&
      plan.set(timer, 'status', TIMER_STATUS.invalid, `${name} is between two states`) &&
      'state',
    timer.num('status') !== TIMER_STATUS.killed &&
      (cpu !== undefined || timer.num('cpu') >= xen.cpuCount) &&
      plan.set(timer, 'cpu', cpu ?? cpuOf(timer.address), `${name} is on a CPU`) &&
      'CPU',
  ].filter((word) => word !== false);
  if (repaired.length > 0) plan.found(`${name}: ${repaired.join(', ')} written again`);
}

/** The CPU of each timer that is on a queue. */
function cpusOfTimers(xen: Xen): ReadonlyMap<bigint, number> {
  const cpus = new Map<bigint, number>();
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const queue = timerQueue(xen, cpu);
    for (const address of [...queue.slots, ...overflowList(xen, queue).timers]) cpus.set(address, cpu);
  }
  return cpus;
}
