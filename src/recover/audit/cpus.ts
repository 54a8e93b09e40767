/** CPUs: where they go on, what they know of themselves, what they take themselves to be in the middle of. */
import { lostItsMode, privilegeLevel } from '../../x86/registers.js';
import { mapsXen } from '../../xen/cpus.js';
import { allVcpus } from '../../xen/domains.js';
import { NESTING_COUNTERS, READER_SLOTS } from '../../xen/nesting.js';
import { schedulerResources } from '../../xen/scheduler.js';
import { cpuStack } from '../../xen/stack.js';
import type { AuditPart } from './part.js';

/** Every abandoned CPU has somewhere to go, and every vCPU that runs does so on one CPU. */
export const places: AuditPart = {
  name: 'where CPUs go on',
  answersFor: ['place-cpus'],
  run({ plan, xen, abandoned, situation }) {
    const placed = new Set<number>();
    for (const edit of plan.edits) if (edit.kind === 'registers' && edit.set.rip !== undefined) placed.add(edit.cpu);
    for (const { cpu, registers } of abandoned) {
      if (!placed.has(cpu)) plan.problem(`CPU ${cpu} has no place to go`);
      if (lostItsMode(registers)) plan.problem(`CPU ${cpu} does not execute 64-bit code`);
    }
    const running = new Set(situation.cpus.map(({ current }) => current.address));
    for (const { address, name } of allVcpus(situation.domains)) {
      if (!running.has(address) && xen.object('vcpu', address).bool('is_running'))
        plan.problem(`${name} would count as running and runs nowhere`);
    }
  },
};

/** No vCPU runs twice, and no CPU comes from a unit that it would later stop wherever that runs. */
export const switches: AuditPart = {
  name: 'switches of vCPUs',
  run({ plan, xen, situation }) {
    const runsOn = new Map<bigint, number>();
    for (const { cpu, current } of situation.cpus) {
      const other = runsOn.get(current.address);
      if (other !== undefined) plan.problem(`${current.name} would run on CPU ${other} and CPU ${cpu}`);
      runsOn.set(current.address, cpu);
    }
    for (const [cpu, resource] of schedulerResources(xen).entries()) {
      const runs = situation.cpus[cpu]!.where !== 'xen';
      if (!runs && resource.u64('prev') !== 0n) plan.problem(`CPU ${cpu} would still be in a switch of vCPUs`);
    }
  },
};

/** A CPU whose page tables do not map Xen where it goes on would fault without end. */
export const pageTables: AuditPart = {
  name: 'page tables of CPUs',
  run({ plan, xen, abandoned }) {
    for (const { cpu } of abandoned) {
      if (!mapsXen(xen, xen.view.registers(cpu).cr3))
        plan.problem(`CPU ${cpu} would run on page tables that do not map Xen`);
    }
  },
};

/** A PV guest's frame with Xen's privilege level is taken for a frame of Xen's own, and the CPU faults when it loads that. */
export const returns: AuditPart = {
  name: 'frames of PV guests',
  run({ plan, xen, abandoned }) {
    for (const { current, loaded, stack } of abandoned) {
      // Of a vCPU that is not loaded yet the frame is still that of another.
      if (current.domain.kind !== 'pv' || current.address !== loaded.address) continue;
      const level = privilegeLevel({ cs: xen.object('cpu_user_regs', stack.guestFrame).num('cs') });
      if (level === 0) plan.problem(`${current.name} would go on with the privileges of Xen`);
    }
  },
};

/** Nearly everything that Xen does begins at these words. */
export const ownWords: AuditPart = {
  name: 'what CPUs know of themselves',
  run({ plan, xen, situation }) {
    const vcpus = new Set(allVcpus(situation.domains).map(({ address }) => address));
    for (const { cpu } of situation.cpus) {
      const { info } = cpuStack(xen, cpu);
      const offset = xen.perCpuOffset(cpu);
      const wrong = [
        info.num('processor_id') !== cpu && 'its number',
        info.u64('per_cpu_offset') !== offset && 'where its data are',
        xen.memory.u64(xen.perCpuOffsetAt(cpu)) !== offset && 'where its data are, in the table of all CPUs,',
        !vcpus.has(info.u64('current_vcpu')) && 'whose thread it runs',
        !vcpus.has(xen.memory.u64(xen.perCpu('curr_vcpu', cpu))) && 'whose state it has loaded',
      ].filter((word) => word !== false);
      for (const word of wrong) plan.problem(`CPU ${cpu}: ${word} would be wrong`);
    }
  },
};

/** No thread is left, so no CPU is in the middle of anything. */
export const nesting: AuditPart = {
  name: 'counts of nesting',
  answersFor: ['per-cpu-state'],
  run({ plan, xen, situation }) {
    for (const { cpu } of situation.cpus) {
      const counts = [
        ['__local_irq_count', xen.irqStat(cpu).num('__local_irq_count')] as const,
        ...NESTING_COUNTERS.map((name) => [name, xen.memory.u32(xen.perCpu(name, cpu))] as const),
      ];
      for (const [name, count] of counts) if (count !== 0) plan.problem(`${name} of CPU ${cpu} would be ${count | 0}`);
      for (const name of READER_SLOTS) {
        if (xen.memory.u64(xen.perCpu(name, cpu)) !== 0n) plan.problem(`${name} of CPU ${cpu} would still name a lock`);
      }
    }
  },
};

/** A CPU that still finds a request of another one's would carry it out on rubbish. */
export const requests: AuditPart = {
  name: 'requests of CPUs to each other',
  run({ plan, xen }) {
    const call = xen.object('call_data_struct', xen.symbol('call_data'));
    const masks: [string, bigint][] = [['a function that CPUs are asked to call', call.at('selected')]];
    if (xen.profile.hasSymbol('flush_cpumask')) masks.push(['a flush of TLBs', xen.symbol('flush_cpumask')]);
    for (const [what, mask] of masks) {
      if (xen.memory.bytes(mask, xen.sizeOf('cpumask')).some((byte) => byte !== 0))
        plan.problem(`${what} would still be asked for`);
    }
    const stop = xen.object('stopmachine_data', xen.symbol('stopmachine_data'));
    if (stop.num('nr_cpus') !== 0 && stop.num('state') !== xen.profile.enumValue('STOPMACHINE_EXIT'))
      plan.problem('a stop of the machine would still be under way');
  },
};
