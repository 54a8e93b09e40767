/**
 * Where the abandoned CPUs go on: an idle vCPU at the start of its idle loop, any other where Xen goes at the end of a
 * context switch to it (`ctxt_switch->tail` of its domain), with nothing on the stack but the guest's frame. From
 * there Xen handles softirqs and events and returns to the guest.
 *
 * Each CPU starts at Xen's own exit path for traps taken in Xen (`restore_all_xen`), which loads all registers from a
 * frame and ends in IRET. Frames are stacked: every one makes the CPU call a function, whose return leads to the next
 * frame, and the last one to its destination. So all calls of the plan cost no round trip, run on all CPUs at once
 * with interrupts off, and the IRET ends the blocking of NMIs that an abandoned NMI handler left behind.
 */

import { type CpuState, mapsXen } from '../../xen/cpus.js';
import type { Edit } from '../plan.js';
import { type Destination, note, type Step, type StepContext } from '../step.js';

/** Room for the called functions below the first frame, in bytes; the primary stack has 8 KiB. */
const STACK_FOR_CALLS = 3584n;
/** EFLAGS: reserved bit 1 set, interrupts off, direction clear. */
const RFLAGS_QUIET = 2n;
const XEN_CS = 0xe008n;
/** Registers that carry the first arguments of a call in the System V ABI. */
const ARGUMENT_REGISTERS = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'] as const;

export const placeCpus: Step = {
  name: 'place-cpus',
  removes: 'the abandoned threads themselves: every CPU gets a place to go on',
  source: 'Zhou and Tamir, DSN 2018: discard all threads',
  run(context) {
    for (const cpu of context.abandoned) place(context, cpu);
  },
};

function place(context: StepContext, state: CpuState): void {
  const { plan, xen } = context;
  const { cpu, current, stack } = state;
  const reason = `CPU ${cpu} goes on as ${current.name}`;
  plan.set(stack.info, 'current_vcpu', current.address, reason);
  plan.set(stack.info, 'use_pv_cr3', 0, reason);
  plan.set(stack.info, 'xen_cr3', 0, reason);

  const calls = plan.edits.filter((edit): edit is Edit & { kind: 'call' } => edit.kind === 'call' && edit.cpu === cpu);
  const exit = xen.symbol('restore_all_xen');
  const frameLength = BigInt(xen.profile.struct('cpu_user_regs').field('es').offset);
  const stride = frameLength + 8n;
  // The tail functions expect to have been called: one slot under the guest frame for the return address.
  const usual = { rip: destinationOf(context, state), rsp: stack.guestFrame - 8n };
  const destination: Destination = context.destinations.get(cpu) ?? usual;
  const first = destination.rsp - frameLength - BigInt(calls.length) * stride;
  const lowest = stack.end - BigInt(xen.profile.constant('PRIMARY_STACK_SIZE'));
  if (first - lowest < STACK_FOR_CALLS) {
    plan.problem(`CPU ${cpu} would have to make ${calls.length} calls: more than its stack has room for`);
    return;
  }
  let frame = first;
  for (const call of calls) {
    const returnSlot = frame + frameLength;
    const registers = new Map<string, bigint>(call.arguments.map((value, n) => [ARGUMENT_REGISTERS[n]!, value]));
    writeFrame(frame, xen.symbol(call.function) + (call.offset ?? 0n), returnSlot, registers, call.reason);
    plan.write(returnSlot, 8, exit, call.reason);
    frame = returnSlot + 8n;
  }
  writeFrame(frame, destination.rip, destination.rsp, new Map([['rbx', destination.rbx ?? 0n]]), reason);
  plan.setRegisters(
    cpu,
    {
      rip: exit,
      rsp: first,
      rflags: Number(RFLAGS_QUIET),
      r12: 0n,
      cr3: pageTableOf(context, state),
      // Code that was jumped into by accident may have left Xen's privilege level.
      ...(BigInt(state.registers.cs) === XEN_CS ? {} : { cs: Number(XEN_CS), ss: 0 }),
    },
    reason,
  );
  note(context, cpu, `goes on in ${xen.profile.describe(destination.rip)}`);

  function writeFrame(at: bigint, rip: bigint, rsp: bigint, registers: ReadonlyMap<string, bigint>, why: string): void {
    const bytes = new Uint8Array(Number(frameLength));
    const view = new DataView(bytes.buffer);
    const put = (field: string, value: bigint): void => {
      view.setBigUint64(xen.profile.struct('cpu_user_regs').field(field).offset, value, true);
    };
    for (const [name, value] of registers) put(name, BigInt.asUintN(64, value));
    put('rip', rip);
    put('cs', XEN_CS);
    put('rflags', RFLAGS_QUIET);
    put('rsp', rsp);
    plan.writeBytes(at, bytes, why);
  }
}

function destinationOf({ xen }: StepContext, { current }: CpuState): bigint {
  if (current.domain.kind === 'idle') return xen.symbol('idle_loop');
  const actions = current.domain.object.u64('arch.ctxt_switch');
  return xen.object('arch_csw', actions).u64('tail');
}

/**
 * The page table of a vCPU may have been exchanged and not loaded yet. In an open context switch, and where the idle vCPU
 * borrows what is loaded, the CPU keeps the one that it has: its descriptor table lies in the part of the address space that
 * belongs to the vCPU, and only this one is sure to map it. (Another one, and the next load of a selector is a triple fault.)
 * What the CPU has may not map Xen at all; then the one of the vCPU that is loaded is the best guess.
 */
function pageTableOf({ frozen, xen }: StepContext, { current, loaded, registers }: CpuState): bigint {
  // As the plan has it: that of an idle vCPU may have been written over (`fixed-fields`).
  const own = xen.object('vcpu', loaded.address).u64('arch.cr3');
  const usable = mapsXen(frozen, registers.cr3);
  if (own !== 0n && (current.address === loaded.address || !usable)) return own;
  return usable ? registers.cr3 : BigInt(frozen.memory.physicalAddress(frozen.symbol('idle_pg_table')));
}
