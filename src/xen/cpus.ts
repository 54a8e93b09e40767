/** What each CPU was doing when the machine froze. */
import { PAGE_SIZE, physical } from '../x86/address.js';
import { translate } from '../x86/paging.js';
import { type CpuRegisters, lostItsMode, privilegeLevel } from '../x86/registers.js';
import { allVcpus, type Domain, idleVcpu, type Vcpu } from './domains.js';
import type { EntryFacts } from './entry.js';
import { unsavedRegisters } from './entry-window.js';
import { type HypercallProgress, hypercallProgress } from './hypercalls.js';
import type { XenObject } from './object.js';
import type { SavedRegister } from './saved-registers.js';
import {
  type BacktraceEntry,
  backtrace,
  type CpuStack,
  cpuStack,
  isTrampoline,
  onStack,
  type TrapFrame,
  trapFrames,
} from './stack.js';
import type { Xen } from './xen.js';

export interface CpuState {
  readonly cpu: number;
  readonly registers: Readonly<CpuRegisters>;
  readonly stack: CpuStack;
  /** Whose thread this CPU runs: `cpu_info.current_vcpu`. */
  readonly current: Vcpu;
  /** Whose extended state is loaded: the per-CPU `curr_vcpu`. Differs from `current` while the idle vCPU is lazy. */
  readonly loaded: Vcpu;
  /** 'guest': outside Xen. 'halted': the idle vCPU waits for an interrupt. 'xen': anything else inside Xen. */
  readonly where: 'guest' | 'halted' | 'xen';
  readonly hypercall: HypercallProgress;
  readonly backtrace: readonly BacktraceEntry[];
  /** Traps taken inside Xen, innermost first; the last one is where the first failure on this CPU happened. */
  readonly traps: readonly TrapFrame[];
  /** Registers of the guest that were not saved yet, of a CPU that failed on its way in; in the order in which they are saved. */
  readonly unsaved: readonly SavedRegister[];
  /** Registers of a PV guest whose trap could not be delivered: the CPU was in its guest when the failure happened. */
  readonly guestTrap?: Pick<XenObject, 'u64'>;
}

export interface Situation {
  readonly domains: readonly Domain[];
  readonly cpus: readonly CpuState[];
}

export function readSituation(xen: Xen, facts: EntryFacts, domains: readonly Domain[]): Situation {
  const byAddress = new Map(allVcpus(domains).map((vcpu) => [vcpu.address, vcpu]));
  return { domains, cpus: Array.from({ length: xen.cpuCount }, (_, cpu) => readCpu(xen, facts, byAddress, cpu)) };
}

function readCpu(xen: Xen, facts: EntryFacts, vcpus: ReadonlyMap<bigint, Vcpu>, cpu: number): CpuState {
  const registers = xen.view.registers(cpu);
  const stack = cpuStack(xen, cpu);
  const idle = vcpus.get(idleVcpu(xen, cpu))!;
  // Any of these pointers may be the victim of the fault; the idle vCPU is the value that is always valid.
  const noted = vcpus.get(xen.memory.u64(xen.perCpu('curr_vcpu', cpu)));
  const current = vcpus.get(stack.info.u64('current_vcpu')) ?? scheduled(xen, vcpus, cpu) ?? noted ?? idle;
  const loaded = noted ?? borrowed(vcpus, registers) ?? current;
  const where = whereIs(xen, stack, registers, current);
  const inside = where === 'xen';
  const guestTrap = inside && current.domain.kind === 'pv' ? guestDoubleFault(xen, stack, registers) : undefined;
  if (guestTrap !== undefined) return fromGuest(xen, { cpu, registers, stack, current, loaded, where }, guestTrap);
  const traps = inside ? trapsOf(xen, facts, stack, registers, cpu) : [];
  const first = current.domain.kind === 'idle' ? undefined : traps.at(-1);
  const unsaved = first === undefined ? [] : unsavedRegisters(xen, { stack, current }, first);
  const state = { cpu, registers, stack, current, loaded, where, traps, unsaved };
  return {
    ...state,
    hypercall: inside && current.domain.kind === 'pv' ? hypercallProgress(xen, facts, state) : { state: 'none' },
    backtrace: where === 'guest' ? [] : backtrace(xen, stack, registers),
  };
}

/** Page of a CPU's stack on which double faults are taken (Xen 4.17, asm-x86/current.h); their frame is at its end. */
const DOUBLE_FAULT_PAGE = 4n;
const DOUBLE_FAULT = 8;

/**
 * A trap of a guest that could not be delivered, such as through a damaged gate, is a double fault: the only one of which
 * Xen does not move the guest's registers to their place, since it is not meant to be survived.
 */
function guestDoubleFault(xen: Xen, stack: CpuStack, { rsp }: CpuRegisters): XenObject | undefined {
  const page = stack.base + DOUBLE_FAULT_PAGE * BigInt(PAGE_SIZE);
  if (rsp < page || rsp >= page + BigInt(PAGE_SIZE)) return undefined;
  const frame = xen.object('cpu_user_regs', page + BigInt(PAGE_SIZE - xen.sizeOf('cpu_user_regs')));
  const fromGuest = (frame.num('cs') & 3) === 3 && (frame.num('entry_vector') & 0xff) === DOUBLE_FAULT;
  return fromGuest ? frame : undefined;
}

/** Nothing was on the CPU's primary stack: what lies there is older. */
function fromGuest(
  xen: Xen,
  state: Pick<CpuState, 'cpu' | 'registers' | 'stack' | 'current' | 'loaded' | 'where'>,
  frame: XenObject,
): CpuState {
  const { stack, registers } = state;
  const rsp = stack.guestFrame + xen.offsetOf('cpu_user_regs', 'es');
  const trap = { object: frame, address: frame.address, rip: frame.u64('rip'), rsp, vector: DOUBLE_FAULT };
  return {
    ...state,
    guestTrap: frame,
    unsaved: [],
    hypercall: { state: 'none' },
    traps: [{ ...trap, takenBy: 'double_fault' }],
    backtrace: [{ address: registers.rip, text: xen.profile.describe(registers.rip) }],
  };
}

/** Registers that are still in the CPU, to be read as those that a trap has saved. */
export const asFrame = (registers: Readonly<CpuRegisters>): TrapFrame['object'] => ({
  u64: (name) => BigInt(registers[name as keyof CpuRegisters] ?? 0),
});

/** A CPU that stands where there is no code is about to trap: it is treated as if it had. */
function trapsOf(xen: Xen, facts: EntryFacts, stack: CpuStack, registers: CpuRegisters, cpu: number): TrapFrame[] {
  const { rip, rsp } = registers;
  const frames = onStack(stack, rsp) ? trapFrames(xen, facts, stack, rsp) : [];
  if (frames.length > 0 || xen.profile.isText(rip) || isTrampoline(xen, cpu, rip)) return frames;
  return [{ object: asFrame(registers), address: rsp, rip, rsp, vector: PAGE_FAULT, takenBy: 'nobody yet' }];
}

const PAGE_FAULT = 14;

/** What the scheduler has put on a CPU. */
function scheduled(xen: Xen, vcpus: ReadonlyMap<bigint, Vcpu>, cpu: number): Vcpu | undefined {
  const resource = xen.memory.u64(xen.perCpu('sched_res', cpu));
  if (!xen.memory.isMapped(resource)) return undefined;
  const unit = xen.object('sched_resource', resource).u64('curr');
  return xen.memory.isMapped(unit) ? vcpus.get(xen.object('sched_unit', unit).u64('vcpu_list')) : undefined;
}

/** The guest's vCPU on whose page table a CPU is: an idle CPU keeps the one of the vCPU that it ran last. */
function borrowed(vcpus: ReadonlyMap<bigint, Vcpu>, { cr3 }: CpuRegisters): Vcpu | undefined {
  const [found, ...more] = [...vcpus.values()].filter(
    ({ domain, object }) => domain.kind !== 'idle' && cr3 !== 0n && object.u64('arch.cr3') === cr3,
  );
  return more.length === 0 ? found : undefined;
}

/**
 * In Xen and not on a stack that can be written to: any trap of this CPU would be a fault, and that one as well. Of the pages
 * of a CPU's stack the first and the one under the primary stack are shadow stacks, which only the processor writes.
 */
export function lostItsStack(xen: Xen, { where, cpu, registers, stack }: CpuState): boolean {
  if (where !== 'xen' || isTrampoline(xen, cpu, registers.rip)) return false;
  const next = registers.rsp - 8n;
  if (!onStack(stack, next)) return true;
  const slot = (next - stack.base) / BigInt(PAGE_SIZE);
  const primary = (stack.end - stack.base - BigInt(xen.profile.constant('PRIMARY_STACK_SIZE'))) / BigInt(PAGE_SIZE);
  return slot === 0n || slot === primary - 1n;
}

/**
 * In Xen and on a page table without Xen: the CPU cannot fetch its next instruction, nor find its interrupt table for the fault that
 * this is. Code that loads CR3 was met by accident, such as `kexec_reloc` behind the padding that follows Xen's entry code.
 */
export const lostItsPageTable = (xen: Xen, { where, registers }: CpuState): boolean =>
  where === 'xen' && !mapsXen(xen, registers.cr3);

/** Whether this page table, a value of CR3, has Xen where Xen's own has it. */
export function mapsXen(xen: Xen, cr3: bigint): boolean {
  const root = physical(Number(cr3 & FRAME_MASK));
  // A capsule from before this was looked at does not have that page.
  if (xen.view.page(root / PAGE_SIZE) === undefined && root < xen.view.physicalSize) return true;
  const exit = xen.symbol('restore_all_xen');
  return translate(xen.view, root, exit)?.physical === translate(xen.view, xen.memory.root, exit)?.physical;
}

const FRAME_MASK = 0x000f_ffff_ffff_f000n;

/**
 * Whether a CPU with an HVM guest's state runs on Xen's own page table for that guest: then it is not in the guest, wherever its
 * program counter has gone and on whatever level it runs. The guest has a page table of its own, translated once more by Xen's.
 */
function isAstray({ object }: Vcpu, { cr3 }: CpuRegisters): boolean {
  const own = object.u64('arch.cr3');
  return own !== 0n && cr3 === own;
}

const HLT = 0xf4;

/** Whether what a CPU executed last may have been HLT. */
export const isBehindHlt = (xen: Xen, rip: bigint): boolean =>
  xen.memory.isMapped(rip - 1n) && xen.memory.u8(rip - 1n) === HLT;

function whereIs(xen: Xen, stack: CpuStack, registers: CpuRegisters, current: Vcpu): CpuState['where'] {
  if (lostItsMode(registers)) return 'xen';
  if (current.domain.kind === 'hvm' && isAstray(current, registers)) return 'xen';
  if (privilegeLevel(registers) === 3) return 'guest';
  const inXen = onStack(stack, registers.rsp) || xen.profile.isText(registers.rip);
  if (!inXen && current.domain.kind === 'hvm') return 'guest';
  const waits =
    current.domain.kind === 'idle' &&
    xen.profile.isText(registers.rip) &&
    isBehindHlt(xen, registers.rip) &&
    (registers.rflags & (1 << 9)) !== 0;
  return waits ? 'halted' : 'xen';
}
