/**
 * The top of a CPU's stack holds, above its guest's frame, what Xen knows the CPU by (`struct cpu_info`, Xen 4.17
 * asm-x86/current.h). A stack pointer that became too high, and the trap that follows, write over it. Which CPU it is, where
 * its per-CPU data are and what is in CR4 is known from elsewhere; the table of where per-CPU data are is written again from these
 * words, should it be wrong: nearly everything that Xen does goes through it. `current_vcpu` of an abandoned CPU is set by `place-cpus`;
 * that of another one, and the per-CPU `curr_vcpu`, are set here where they name no vCPU.
 *
 * `pv_cr3` is what the CPU returns to its guest on, where Xen keeps the page tables of guests apart (Xen 4.17 arch/x86/mm.c
 * `write_ptbase`), and 0 everywhere else. How the CPU is kept from speculation nothing else tells: where other words were written
 * over, these are taken from another CPU.
 */
import { allVcpus, type Vcpu } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import type { PlanBuilder } from '../builder.js';
import type { Step } from '../step.js';

export const cpuInfo: Step = {
  name: 'cpu-info',
  removes: 'what was written over the words by which a CPU knows itself',
  source: 'ours; Xen 4.17 asm-x86/current.h',
  run({ plan, xen, abandoned, situation }) {
    const loadedAt = (cpu: number): bigint => xen.perCpu('curr_vcpu', cpu);
    const vcpus = new Set(allVcpus(situation.domains).map((vcpu) => vcpu.address));
    const inXen = new Set(abandoned.map(({ cpu }) => cpu));
    for (const { cpu, stack, registers, current, loaded } of situation.cpus) {
      if (plan.write(xen.perCpuOffsetAt(cpu), 8, xen.perCpuOffset(cpu), `where the data of CPU ${cpu} are`))
        plan.found(`CPU ${cpu}: where its per-CPU data are, in the table of all CPUs, written again`);
      const { info } = stack;
      const reason = `CPU ${cpu} knows itself by it`;
      const repaired = [
        plan.set(info, 'processor_id', cpu, reason) && 'number',
        plan.set(info, 'per_cpu_offset', xen.perCpuOffset(cpu), reason) && 'per-CPU data',
        !inXen.has(cpu) &&
          !vcpus.has(info.u64('current_vcpu')) &&
          plan.set(info, 'current_vcpu', current.address, reason) &&
          'vCPU',
        inXen.has(cpu) && plan.set(info, 'cr4', registers.cr4, reason) && 'CR4',
        inXen.has(cpu) && !hasTwoPageTables(loaded) && plan.set(info, 'pv_cr3', 0, reason) && 'page table of its guest',
        !vcpus.has(xen.memory.u64(loadedAt(cpu))) &&
          plan.write(loadedAt(cpu), 8, loaded.address, reason) &&
          'vCPU loaded',
      ].filter((word) => word !== false);
      if (repaired.length === 0) continue;
      plan.found(`CPU ${cpu}: ${repaired.join(', ')} written again`);
      if (!inXen.has(cpu)) continue;
      const other = situation.cpus.find(
        ({ cpu: another, stack: { info: there } }) =>
          another !== cpu && there.num('processor_id') === another && there.u64('pv_cr3') === 0n,
      );
      if (other !== undefined) takeSpeculation(plan, info, other.stack.info, reason);
    }
  },
};

/** Whether Xen keeps a second top page table for what this vCPU's guest runs on. */
const hasTwoPageTables = ({ domain }: Vcpu): boolean => domain.kind === 'pv' && domain.object.bool('arch.pv.xpti');

/** What no CPU changes while it is in Xen (Xen 4.17 asm-x86/spec_ctrl_asm.h). */
const SPECULATION = ['verw_sel', 'xen_spec_ctrl', 'scf'] as const;
/** `SCF_use_shadow`, in `scf`: the CPU is on its way to a guest. */
const USE_SHADOW = 1;

function takeSpeculation(plan: PlanBuilder, info: XenObject, from: XenObject, reason: string): void {
  for (const name of SPECULATION) plan.set(info, name, from.num(name) & (name === 'scf' ? ~USE_SHADOW : -1), reason);
}
