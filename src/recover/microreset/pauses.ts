/**
 * Whom a dropped thread left paused. Xen counts the reasons why a domain or a vCPU does not run (Xen 4.17, common/domain.c
 * `domain_pause`, `vcpu_pause`); a request that changes a domain takes one reason for its duration. When no thread is in
 * Xen any more, the only reasons left are those that are noted elsewhere: the toolstack's, those of a shutdown, of an event
 * that somebody outside has to answer, of a wait queue. The counts are made what these amount to.
 *
 * The toolstack's own requests to pause and to let run, and a guest's shutdown, are retried and must not count twice: what such
 * a request had done is undone. Which one it was stands in the request, how far it was on the dropped thread's stack.
 *
 * A domain that is being destroyed stays paused for ever and is left alone, and so is one whose dirty pages are being read in a call
 * that was preempted.
 *
 * Counts that cannot be, of less than nothing or of less than the toolstack's, are corrected whatever was dropped.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { Domain } from '../../xen/domains.js';
import { guestBytes } from '../../xen/guest-memory.js';
import type { XenObject } from '../../xen/object.js';
import { pauseDefect } from '../../xen/pause-counts.js';
import type { Step, StepContext } from '../step.js';

/** Code that pauses a domain or a vCPU and lets it run again before it ends. */
const PAUSES =
  /pause|domctl|paging_|hap_enable|hap_track|hvm_op|hvm_set_param|hvmop|dm_op|mem_sharing|vm_event|monitor|altp2m|cpupool|sched_move_domain|vcpu_reset|vcpu_sleep_sync|domain_resume|domain_shutdown/;
/** `XEN_DOMCTL_pausedomain` and `XEN_DOMCTL_unpausedomain` (public/domctl.h). */
const REQUEST = { pause: 3, unpause: 4 } as const;
const DOM0 = 0;
const NOTHING_YET = 'no request has changed it';

export const pauses: Step = {
  name: 'pauses',
  removes: 'domains and vCPUs left paused by a dropped request, and requests to pause that would count twice',
  source: 'ours; Xen 4.17 common/domain.c, common/domctl.c',
  run(context) {
    const wasPausing = context.wasIn(PAUSES);
    for (const cpu of wasPausing ? context.abandoned : []) {
      undoRequest(context, cpu);
      undoShutdown(context, cpu);
    }
    for (const domain of context.situation.domains) {
      if (domain.kind !== 'idle' && (wasPausing || cannotBe(domain))) recount(context, domain);
    }
  },
};

/** Counts that no thread leaves behind: something was written over them. */
const cannotBe = ({ object, vcpus }: Domain): boolean =>
  [{ object }, ...vcpus].some((counted) => pauseDefect(counted.object) !== undefined);

function undoRequest(context: StepContext, cpu: CpuState): void {
  const { plan, xen, situation } = context;
  const { current, hypercall, stack } = cpu;
  if (hypercall.state !== 'in-progress' || hypercall.name !== 'domctl' || !hypercall.started) return;
  const layout = xen.profile.struct('xen_domctl');
  const argument = xen.object('cpu_user_regs', stack.guestFrame).u64('rdi');
  const bytes = guestBytes(xen, current.object, argument, layout.field('u').offset);
  if (bytes === undefined) return;
  const request = Buffer.from(bytes);
  const command = request.readUInt32LE(layout.field('cmd').offset);
  const id = request.readUInt16LE(layout.field('domain').offset);
  const domain = situation.domains.find((other) => other.id === id);
  if (domain === undefined) return;
  const counted = domain.object.num('controller_pause_count');
  const paused = domain.object.num('pause_count');
  if (command === REQUEST.pause && (counted > paused || wasIn(cpu, 'domain_pause_by_systemcontroller'))) {
    plan.set(domain.object, 'controller_pause_count', Math.max(0, counted - 1), NOTHING_YET);
    plan.found(`d${id}: the toolstack's pause was under way: undone`);
  }
  if (command === REQUEST.unpause && (paused > counted || wasIn(cpu, 'domain_unpause_by_systemcontroller'))) {
    plan.set(domain.object, 'controller_pause_count', counted + 1, NOTHING_YET);
    plan.found(`d${id}: the end of the toolstack's pause was under way: undone`);
  }
}

/** A second call of `domain_shutdown` does nothing; so the first is made to have done nothing. */
function undoShutdown({ plan, xen, situation }: StepContext, cpu: CpuState): void {
  // dom0 may be ended by a thread of another domain; what is done to it alone tells that it is meant.
  const dom0 = wasIn(cpu, 'hwdom_shutdown') ? situation.domains.find((domain) => domain.id === DOM0) : undefined;
  const { object, vcpus, id } = dom0 ?? cpu.current.domain;
  if (!wasIn(cpu, 'domain_shutdown') || !object.bool('is_shutting_down')) return;
  for (const name of ['is_shutting_down', 'is_shut_down'] as const) plan.set(object, name, 0, NOTHING_YET);
  for (const { address } of vcpus) plan.set(xen.object('vcpu', address), 'paused_for_shutdown', 0, NOTHING_YET);
  plan.found(`d${id}: its shutdown was under way: undone`);
}

/** Whether a function of this name had called another one. */
const wasIn = ({ backtrace }: CpuState, name: string): boolean =>
  backtrace.some(({ text }) => text.startsWith(`${name}+`));

function recount({ plan, xen }: StepContext, domain: Domain): void {
  const { object } = domain;
  if (object.num('is_dying') !== 0 || object.u64('arch.paging.preempt.dom') !== 0n) return;
  correct(object, object.num('controller_pause_count'), `d${domain.id}`);
  // A vCPU of the toolstack's domain may wait for another CPU to carry its hypercall on.
  if (object.bool('is_privileged')) return;
  for (const { object: vcpu, name } of domain.vcpus) {
    const reasons = [
      vcpu.num('controller_pause_count'),
      vcpu.num('vm_event_pause_count'),
      vcpu.num('paused_for_shutdown'),
      isInWaitQueue(vcpu) ? 1 : 0,
    ];
    correct(
      vcpu,
      reasons.reduce((sum, count) => sum + count, 0),
      name,
    );
  }

  function correct(of: XenObject, right: number, name: string): void {
    const counted = of.num('pause_count');
    if (counted === right) return;
    plan.set(of, 'pause_count', right, `${name} has ${right} reasons to be paused`);
    plan.found(`${name} was paused ${counted} times for ${right} reasons`);
  }

  function isInWaitQueue(vcpu: XenObject): boolean {
    const waiting = vcpu.u64('waitqueue_vcpu');
    return waiting !== 0n && xen.memory.isMapped(waiting) && xen.memory.u64(waiting) !== waiting;
  }
}
