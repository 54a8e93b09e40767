/**
 * Pins of grants. While a page that a guest granted is mapped or copied, Xen pins the grant: it counts its users in the active entry, and
 * tells the guest by flags in the entry that both share. A thread dropped in a copy leaves its pins, since the retry takes
 * and gives back its own; so does one dropped between a grant's being unmapped and its being unpinned, which a flush of all
 * CPUs lies between. The guest never gets such a page back: Linux's netfront finds the grant in use and disables its device.
 *
 * How often a grant has to be pinned can be counted: once for each mapping of it in the tables of all domains, once more where
 * it is mapped for devices. When everybody is out of Xen no copy is under way. What is too much is taken back, and the flags
 * go with the last pin, as in Xen's `reduce_status_for_pin`. References of the pages are for `mappings`.
 */
import { PAGE_SIZE } from '../../x86/address.js';
import type { Domain } from '../../xen/domains.js';
import { maptrackEntries } from '../../xen/maptrack.js';
import type { XenObject } from '../../xen/object.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

/** Code that pins grants and holds references of granted pages. */
export const USES_GRANTS = /grant|gnt/;

/** public/grant_table.h */
const MAPPED_FOR = { device: 1, host: 2, reading: 4 } as const;
const GTF = { reading: 1 << 3, writing: 1 << 4 } as const;
/** common/grant_table.c `GNTPIN_…`: four counters of 8 bits. */
const SHIFTS = { hostWrites: 0, hostReads: 8, deviceWrites: 16, deviceReads: 24 } as const;
const COUNTER = 0xff;
const WRITES = (COUNTER << SHIFTS.hostWrites) | (COUNTER << SHIFTS.deviceWrites);

export const grantPins: Step = {
  name: 'grant-pins',
  removes: 'pins of grants that a dropped operation took, or did not give back',
  source: 'ours, for the undo log of Le and Tamir, UCLA TR 140019; Xen 4.17 common/grant_table.c',
  run(context) {
    if (!context.wasIn(USES_GRANTS)) return;
    const domains = context.situation.domains.filter(({ kind }) => kind !== 'idle');
    const mapped = countMappings(context.xen, domains);
    for (const domain of domains) {
      for (const { ref, pin, entry } of pinned(context.xen, domain)) {
        const needed = mapped.get(keyOf(domain.id, ref)) ?? 0;
        if (exceeds(pin, needed)) unpin(context, domain, ref, entry, needed);
      }
    }
  },
};

const keyOf = (granter: number, ref: number): string => `${granter}:${ref}`;

/** What the mappings of each grant make of its pins. */
function countMappings(xen: Xen, domains: readonly Domain[]): ReadonlyMap<string, number> {
  const pins = new Map<string, number>();
  for (const domain of domains) {
    for (const { granter, ref, flags } of maptrackEntries(xen, domain)) {
      const reads = (flags & MAPPED_FOR.reading) !== 0;
      let added = 0;
      if ((flags & MAPPED_FOR.host) !== 0) added += 1 << (reads ? SHIFTS.hostReads : SHIFTS.hostWrites);
      if ((flags & MAPPED_FOR.device) !== 0) added += 1 << (reads ? SHIFTS.deviceReads : SHIFTS.deviceWrites);
      if (added !== 0) pins.set(keyOf(granter, ref), (pins.get(keyOf(granter, ref)) ?? 0) + added);
    }
  }
  return pins;
}

interface PinnedGrant {
  readonly ref: number;
  readonly pin: number;
  readonly entry: XenObject;
}

/** A domain's active entries that have pins. */
function* pinned(xen: Xen, domain: Domain): Generator<PinnedGrant> {
  const address = domain.object.u64('grant_table');
  if (address === 0n) return;
  const table = xen.object('grant_table', address);
  const layout = xen.profile.struct('active_grant_entry');
  const pinAt = layout.field('pin').offset;
  const perPage = Math.floor(PAGE_SIZE / layout.size);
  const count = table.num('nr_grant_frames') * sharedPerPage(xen, table);
  for (let first = 0; first < count; first += perPage) {
    const page = xen.memory.u64(table.u64('active') + BigInt(8 * (first / perPage)));
    const bytes = xen.memory.bytes(page, PAGE_SIZE);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (let n = 0; n < perPage && first + n < count; n++) {
      const at = n * layout.size;
      const pin = view.getUint32(at + pinAt, true);
      if (pin !== 0) yield { ref: first + n, pin, entry: xen.object('active_grant_entry', page + BigInt(at)) };
    }
  }
}

const isVersion1 = (table: XenObject): boolean => table.num('gt_version') === 1;

const sharedPerPage = (xen: Xen, table: XenObject): number =>
  PAGE_SIZE / xen.sizeOf(isVersion1(table) ? 'grant_entry_v1' : 'grant_entry_v2');

/** Some counter is larger than it has to be, and none smaller: that is nothing that a dropped thread leaves. */
function exceeds(pin: number, needed: number): boolean {
  const differences = Object.values(SHIFTS).map(
    (shift) => ((pin >>> shift) & COUNTER) - ((needed >>> shift) & COUNTER),
  );
  return differences.every((difference) => difference >= 0) && differences.some((difference) => difference > 0);
}

function unpin({ plan, xen }: StepContext, domain: Domain, ref: number, entry: XenObject, needed: number): void {
  const reason = `grant ${ref} of d${domain.id} is pinned by nobody any more`;
  plan.set(entry, 'pin', needed, reason);
  const at = statusAt(xen, xen.object('grant_table', domain.object.u64('grant_table')), ref);
  const flags = xen.memory.u16(at);
  const kept = flags & ~((needed === 0 ? GTF.reading : 0) | ((needed & WRITES) === 0 ? GTF.writing : 0));
  if (kept !== flags) plan.write(at, 2, kept, reason);
  plan.found(reason);
}

/** Where the guest is told who uses the grant: in the grant itself, or since version 2 in an array of its own. */
function statusAt(xen: Xen, table: XenObject, ref: number): bigint {
  const [pages, size] = isVersion1(table)
    ? [table.u64('shared_raw'), xen.sizeOf('grant_entry_v1')]
    : [table.u64('status'), 2];
  const perPage = PAGE_SIZE / size;
  return xen.memory.u64(pages + BigInt(8 * Math.floor(ref / perPage))) + BigInt((ref % perPage) * size);
}
