/**
 * Control of domains. Most of it may be repeated: max_vcpus skips the vCPUs that there are, destroydomain notes in the domain how far it
 * is, others set what they are told. Pauses are the business of the step `pauses`. Not so createdomain (Xen 4.17, common/domctl.c,
 * common/domain.c): the last thing it does is to enter the domain into the list of domains, and then to give it the name that was asked
 * for. A domain of that name, or of none, that has neither a page nor a vCPU was created by the dropped call: the guest gets its answer.
 */
import type { Domain } from '../../xen/domains.js';
import { GuestStruct } from '../../xen/guest-struct.js';
import type { Step, StepContext } from '../step.js';
import { type UnderWay, underWay } from './under-way.js';

const DOMCTL = 36;
/** `XEN_DOMCTL_createdomain` (public/domctl.h). */
const CREATE = 1;
const DOMID_FIRST_RESERVED = 0x7ff0;
const HANDLE_LENGTH = 16;
/** `DOMAIN_HASH_SIZE` (common/domain.c). */
const HASH_SIZE = 256;
const LONGEST_CHAIN = 32_768;

export const domctl: Step = {
  name: 'domctl',
  removes: 'repetition of the creation of a domain that had its effect',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/domctl.c',
  run(context) {
    for (const cpu of context.abandoned) {
      const call = underWay(context, cpu, DOMCTL);
      const given = call && GuestStruct.at(context.xen, cpu.current.object, 'xen_domctl', call.arguments[0]!);
      if (call === undefined || given === undefined) continue;
      if (given.num('cmd') === CREATE) create(context, call, given);
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
