/**
 * Pages of guests that Xen itself maps for as long as the guest lives, and so holds references of (Xen 4.17: `map_vcpu_info`,
 * event_fifo.c `map_guest_page`, PHYSDEVOP_pirq_eoi_gmfn).
 */
import { PAGE_SIZE } from '../x86/address.js';
import type { Domain } from './domains.js';
import type { Xen } from './xen.js';

const EVENT_PAGES = 128;

/** Frame numbers; a pointer that leads nowhere is left out. */
export function pagesThatXenMaps(xen: Xen, domains: readonly Domain[]): ReadonlySet<number> {
  const frames = new Set<number>();
  const frame = (number: bigint): void => {
    if (number < BigInt(Number.MAX_SAFE_INTEGER)) frames.add(Number(number));
  };
  const behind = (pointer: bigint): void => {
    if (pointer !== 0n && xen.memory.isMapped(pointer))
      frames.add(Math.floor(xen.memory.physicalAddress(pointer) / PAGE_SIZE));
  };
  for (const { kind, object, vcpus } of domains) {
    if (kind === 'idle') continue;
    frame(object.u64('arch.pirq_eoi_map_mfn'));
    const events = object.u64('evtchn_fifo');
    if (xen.memory.isMapped(events)) {
      const arrays = xen.object('evtchn_fifo_domain', events);
      for (let n = 0; n < EVENT_PAGES; n++) {
        const array = arrays.u64(`event_array[${n}]`);
        if (array === 0n) break;
        behind(array);
      }
    }
    for (const vcpu of vcpus) {
      frame(vcpu.object.u64('vcpu_info_mfn'));
      behind(vcpu.object.u64('vcpu_info'));
      const queues = vcpu.object.u64('evtchn_fifo');
      if (xen.memory.isMapped(queues)) behind(xen.object('evtchn_fifo_vcpu', queues).u64('control_block'));
    }
  }
  return frames;
}
