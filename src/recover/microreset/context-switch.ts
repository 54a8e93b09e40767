/**
 * A context switch that was dropped half way. Xen 4.17 (`context_switch`, arch/x86/domain.c) first names the new vCPU
 * `current`, then `__context_switch` saves the old one's registers from the stack top, saves its extended state, copies
 * the new one's registers to the stack top, loads its extended state, and last of all notes it as `curr_vcpu`. Then the
 * segments are loaded: the FS and GS bases of a PV guest's process and kernel.
 *
 * While `current` and `curr_vcpu` differ (and the new one is not idle, whose state is loaded lazily) the switch is open:
 * - the stack top still holds the old vCPU's registers: the whole of `__context_switch` is run again;
 * - it holds the new one's, or the copying had begun: the old one was saved completely, since that comes first; the idle
 *   vCPU is noted as `curr_vcpu`, so that running it again only loads.
 *
 * The CPU runs the function itself before it goes on, see `place-cpus`, and after it the one that loads segments. A PV
 * guest that runs with the bases of another faults in its kernel until its stack is full.
 *
 * A vCPU that is saved for good (`__sync_local_execstate`) is noted as clean before its CPU forgets it: where the thread was
 * dropped in between, the CPU would later save the old registers over newer ones.
 */
import type { CpuState } from '../../xen/cpus.js';
import { guestTables } from '../../xen/descriptors.js';
import type { Vcpu } from '../../xen/domains.js';
import { allVcpus } from '../../xen/domains.js';
import type { XenObject } from '../../xen/object.js';
import { schedulerResources } from '../../xen/scheduler.js';
import { note, type Step, type StepContext, TF_KERNEL_MODE } from '../step.js';

/** `VCPU_CPU_CLEAN` in `vcpu.dirty_cpu`: no CPU holds its state. */
const CLEAN = 0xffff_ffff;
/** Where behind a vCPU's segment table its local one is (asm-x86/config.h: LDT_VIRT_START). */
const LDT_OFFSET = 0x1_0000n;

export const contextSwitch: Step = {
  name: 'context-switch',
  removes: 'context switches caught half done: registers of one vCPU under the name of another',
  source: 'Zhou and Tamir, DSN 2018: scheduling metadata, per-CPU copy wins; FS and GS bases; the completion is ours',
  run(context) {
    const resources = schedulerResources(context.xen);
    for (const cpu of context.abandoned) {
      const { current, loaded } = cpu;
      if (current.domain.kind === 'idle') forget(context, cpu);
      else if (current.address !== loaded.address) complete(context, cpu);
      else if (current.domain.kind === 'pv') finishSegments(context, cpu, resources[cpu.cpu]!);
    }
  },
};

function complete(context: StepContext, cpu: CpuState): void {
  const { plan } = context;
  const copied = copyBegan(context, cpu);
  if (copied && cpu.loaded.domain.kind !== 'idle') {
    const reason = `CPU ${cpu.cpu}: ${cpu.loaded.name} is saved, only ${cpu.current.name} is loaded`;
    noteIdle(context, cpu, reason);
    plan.set(cpu.loaded.object, 'dirty_cpu', CLEAN, `no CPU holds state of ${cpu.loaded.name}`);
  }
  plan.call(cpu.cpu, '__context_switch', [], `the switch from ${cpu.loaded.name} to ${cpu.current.name} is completed`);
  plan.found(`CPU ${cpu.cpu}: from ${cpu.loaded.name} to ${cpu.current.name}, ${copied ? 'loading' : 'saving'}`);
  if (cpu.current.domain.kind === 'pv') loadSegments(context, cpu, savedBases(cpu.current));
  note(context, cpu.cpu, `switch to ${cpu.current.name} is completed`);
}

/**
 * Whether the new vCPU's registers, or the first of them, are on the stack top. They are copied upwards from the old
 * one's, which have been saved by then.
 */
function copyBegan({ xen }: StepContext, { current, loaded, stack }: CpuState): boolean {
  const length = xen.profile.struct('cpu_user_regs').field('es').offset;
  const onTop = xen.memory.bytes(stack.guestFrame, length);
  const incoming = xen.memory.bytes(current.object.at('arch.user_regs'), length);
  const differs = onTop.findIndex((byte, i) => byte !== incoming[i]);
  if (differs < 0) return true;
  if (loaded.domain.kind === 'idle' || differs < 8) return false;
  const saved = xen.memory.bytes(loaded.object.at('arch.user_regs'), length);
  const fromSaved = onTop.findIndex((byte, i) => i >= (differs & ~7) && byte !== saved[i]) < 0;
  return fromSaved && onTop.some((byte, i) => byte !== saved[i]);
}

function noteIdle({ plan, xen, situation }: StepContext, { cpu }: CpuState, reason: string): void {
  const idle = situation.domains.at(-1)!.vcpus[cpu]!;
  plan.write(xen.perCpu('curr_vcpu', cpu), 8, idle.address, reason);
}

/** An idle CPU that still names a vCPU whose state it no longer holds. */
function forget(context: StepContext, cpu: CpuState): void {
  const { loaded } = cpu;
  if (loaded.domain.kind === 'idle' || loaded.object.num('dirty_cpu') === cpu.cpu) return;
  const reason = `CPU ${cpu.cpu} holds no state of ${loaded.name} any more`;
  noteIdle(context, cpu, reason);
  context.plan.found(reason);
}

interface Bases {
  readonly fs: bigint;
  readonly kernel: bigint;
  readonly user: bigint;
}

/**
 * The switch as such is done, and what follows it may not be: from `sched_switch_units` to `unit_context_saved` the CPU's
 * scheduling resource names the unit that it comes from. Where the CPU has another's bases then, they were not loaded. The
 * saved ones alone decide nothing, since a process changes its FS base without Xen's noting it.
 *
 * A guest's kernel keeps its GS base; where it is on the wrong side, the thread was dropped in `toggle_guest_mode` between
 * exchanging the bases and noting it.
 */
function finishSegments(context: StepContext, cpu: CpuState, resource: XenObject): void {
  const { current, registers } = cpu;
  const { fsBase: fs, gsBase: active, kernelGsBase: shadow } = registers;
  const own = savedBases(current);
  const has = isInKernel(current) ? { fs, kernel: active, user: shadow } : { fs, kernel: shadow, user: active };
  if (same(has, own)) return;
  if (has.kernel !== own.kernel && has.user === own.kernel) {
    context.plan.found(`CPU ${cpu.cpu}: the GS bases of ${current.name} were exchanged too early`);
    loadSegments(context, cpu, { fs, kernel: own.kernel, user: has.kernel });
    return;
  }
  if (resource.u64('prev') === 0n || resource.u64('curr') !== current.object.u64('sched_unit')) return;
  const foreign = allVcpus(context.situation.domains).some(
    (other) => other.domain.kind === 'pv' && other.address !== current.address && same(has, savedBases(other)),
  );
  if (has.kernel === own.kernel && !foreign) return;
  context.plan.found(`CPU ${cpu.cpu}: segments of ${current.name} were not loaded`);
  loadSegments(context, cpu, own);
}

const isInKernel = ({ object }: Vcpu): boolean => (object.num('arch.flags') & TF_KERNEL_MODE) !== 0;

const savedBases = ({ object }: Vcpu): Bases => ({
  fs: object.u64('arch.pv.fs_base'),
  kernel: object.u64('arch.pv.gs_base_kernel'),
  user: object.u64('arch.pv.gs_base_user'),
});

const same = (a: Bases, b: Bases): boolean => a.fs === b.fs && a.kernel === b.kernel && a.user === b.user;

/** AMD: Xen's own function, which loads all of them through the host's VMCB, and after `__context_switch` did so as well. */
function loadSegments({ plan, facts }: StepContext, { cpu, current }: CpuState, { fs, kernel, user }: Bases): void {
  const [active, shadow] = isInKernel(current) ? [kernel, user] : [user, kernel];
  const reason = `segments of ${current.name} are loaded`;
  if (facts.svm === undefined) {
    plan.setRegisters(cpu, { fsBase: fs, gsBase: active, kernelGsBase: shadow }, reason);
    return;
  }
  const entries = BigInt(current.object.num('arch.pv.ldt_ents'));
  const table = guestTables(current.id) + LDT_OFFSET;
  plan.call(cpu, 'svm_load_segs', [entries, table, fs, active, shadow], reason);
}
