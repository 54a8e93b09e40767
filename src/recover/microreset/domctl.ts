/**
 * Control of domains. Most of it may be repeated: max_vcpus skips the vCPUs that there are, destroydomain notes in the domain how far it
 * is, others set what they are told. Not so (Xen 4.17, common/domctl.c, common/domain.c):
 * - createdomain: the last thing it does is to enter the domain into the list of domains, and then to give it the name that was asked
 *   for. A domain of that name, or of none, that has neither a page nor a vCPU was created by the dropped call: the guest gets its answer.
 * - pausedomain, unpausedomain: the controller's count of pauses is changed first, the domain's next, and then its vCPUs. Where the
 *   counts tell that only the first was reached, or the stack that vCPUs were being put to sleep, the controller's count is
 *   set back. Where they tell that all was done, the guest gets its answer. `pause-counts` makes the domain's count follow.
 *   A pause that had ended when its thread was dropped is repeated, and so is an unpause of a domain that stays paused: the
 *   counts look the same as before them.
 */
import type { CpuState } from '../../xen/cpus.js';
import type { Domain } from '../../xen/domains.js';
import { GuestStruct } from '../../xen/guest-struct.js';
import type { Step, StepContext } from '../step.js';
import { namedDomain, type UnderWay, underWay, valuesInHand } from './under-way.js';

const DOMCTL = 36;
/** XEN_DOMCTL_* (public/domctl.h). */
const CREATE = 1;
const PAUSE = 3;
const UNPAUSE = 4;
const DOMID_FIRST_RESERVED = 0x7ff0;
const HANDLE_LENGTH = 16;
/** `DOMAIN_HASH_SIZE` (common/domain.c). */
const HASH_SIZE = 256;
const LONGEST_CHAIN = 32_768;
/** `call` with a 32-bit distance. */
const CALL = { opcode: 0xe8, length: 5 } as const;

export const domctl: Step = {
  name: 'domctl',
  removes: 'repetition of the creation of a domain, and of pauses, that had their effect',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/domctl.c',
  run(context) {
    for (const cpu of context.abandoned) {
      const call = underWay(context, cpu, DOMCTL);
      const given = call && GuestStruct.at(context.xen, cpu.current.object, 'xen_domctl', call.arguments[0]!);
      if (call === undefined || given === undefined) continue;
      const command = given.num('cmd');
      if (command === CREATE) create(context, call, given);
      else if (command === PAUSE || command === UNPAUSE) {
        const domain = namedDomain(context, cpu, given.num('domain'));
        if (domain === undefined) continue;
        if (command === PAUSE) pause(context, cpu, domain);
        else unpause(context, call, domain);
      }
    }
  },
};

function create(context: StepContext, call: UnderWay, given: GuestStruct): void {
  const { plan, situation } = context;
  const asked = given.num('domain');
  const isAsked = asked > 0 && asked < DOMID_FIRST_RESERVED;
  const handle = given.slice('u.createdomain.handle', HANDLE_LENGTH);
  const target = given.inDirectMap('domain');
  if (target === undefined) return;
  for (const domain of situation.domains) {
    if (domain.kind === 'idle' || !isFresh(context, domain, handle)) continue;
    if (isAsked && domain.id !== asked) continue;
    const reason = `d${domain.id} is created`;
    plan.writeBytes(domain.object.at('handle'), handle, reason);
    enterHash(context, domain);
    plan.write(target, 2, domain.id, reason);
    call.finish(reason);
    return;
  }
}

/** Whether nothing was done with a domain since it was entered into the list. */
function isFresh({ xen }: StepContext, { object, vcpus }: Domain, handle: Uint8Array): boolean {
  if (object.bool('creation_finished') || object.num('is_dying') !== 0 || object.num('tot_pages') !== 0) return false;
  if (vcpus.length > 0) return false;
  const name = xen.memory.bytes(object.at('handle'), HANDLE_LENGTH);
  return name.every((byte) => byte === 0) || name.every((byte, n) => byte === handle[n]);
}

/** A domain enters the hash table, by which it is found by its number, right after the list. */
function enterHash({ plan, xen }: StepContext, { id, address }: Domain): void {
  const bucket = xen.symbol('domain_hash') + BigInt(8 * (id % HASH_SIZE));
  const next = xen.offsetOf('domain', 'next_in_hashbucket');
  let steps = 0;
  for (let at = xen.memory.u64(bucket); at !== 0n && steps < LONGEST_CHAIN; at = xen.memory.u64(at + next), steps++)
    if (at === address) return;
  plan.write(bucket, 8, address, `d${id} is found by its number`);
}

function pause(context: StepContext, cpu: CpuState, domain: Domain): void {
  const { controller, pauses } = counts(domain);
  const isHalf = controller > pauses;
  const isPutting = isCalling(context, cpu, 'vcpu_sleep_sync') || isCalling(context, cpu, 'vcpu_sleep_nosync');
  if (controller > 0 && (isHalf || isPutting)) setController(context, domain, controller - 1);
}

function unpause(context: StepContext, call: UnderWay, domain: Domain): void {
  const { controller, pauses } = counts(domain);
  if (pauses > controller) setController(context, domain, controller + 1);
  else if (controller === 0) call.finish(`d${domain.id} is unpaused`);
}

const counts = ({ object }: Domain): { controller: number; pauses: number } => ({
  controller: object.num('controller_pause_count'),
  pauses: object.num('pause_count.counter'),
});

function setController({ plan }: StepContext, { object, id }: Domain, count: number): void {
  const reason = `d${id} is paused ${count} times by its controller before the call under way`;
  plan.set(object, 'controller_pause_count', count, reason);
  plan.found(reason);
}

/** Whether a function that Xen's code calls directly is being executed by the thread. */
function isCalling(context: StepContext, cpu: CpuState, name: string): boolean {
  const { frozen } = context;
  const target = frozen.symbol(name);
  for (const value of valuesInHand(context, cpu)) {
    const call = value - BigInt(CALL.length);
    if (!frozen.profile.isText(value) || !frozen.profile.isText(call)) continue;
    if (frozen.memory.u8(call) === CALL.opcode && value + BigInt(frozen.memory.i32(call + 1n)) === target) return true;
  }
  return false;
}
