/**
 * Xen's part of the top-level page tables that PV guests run on. Every such table maps Xen in the slots that are Xen's, and always in
 * the same way (Xen 4.17, arch/x86/mm.c `init_xen_l4_slots`): a CPU that loads one which does not faults without end. A thread
 * that makes a table and has the wrong address of it, or writes astray, leaves one behind; whatever it was to be, these
 * slots are known.
 */
import { frameOf } from '../../xen/domain-pages.js';
import { type Domain, domainName } from '../../xen/domains.js';
import { baseTables, XEN_SLOTS } from '../../xen/page-tables.js';
import type { Xen } from '../../xen/xen.js';
import type { Step, StepContext } from '../step.js';

/** Slots of their own meaning (asm-x86/config.h); all others are the same in all tables. */
const READ_ONLY_MPT = 256;
const LINEAR = 258;
const PER_DOMAIN = 260;
/** A table of Xen's own: present, writable, accessed, dirty, not executable (`__PAGE_HYPERVISOR_RW`). */
const OWN_TABLE = 0x8000_0000_0000_0063n;

export const xenSlots: Step = {
  name: 'xen-slots',
  removes: "top-level page tables of PV guests in which Xen's own part is not what it has to be",
  source: 'ours; Xen 4.17 arch/x86/mm.c',
  run(context) {
    const { xen, situation } = context;
    if (!xen.memory.hasPlainDirectMap) return;
    const idle = slotsAt(xen, xen.symbol('idle_pg_table'));
    for (const domain of situation.domains) {
      const perDomain = perDomainTable(xen, domain);
      if (perDomain === undefined) continue;
      for (const frame of new Set(baseTables([domain]))) repair(context, domain, frame, { idle, perDomain });
    }
  },
};

interface Right {
  /** The slots of the table that idle CPUs run on, from the first of Xen's. */
  readonly idle: readonly bigint[];
  readonly perDomain: bigint;
}

function repair({ plan, xen }: StepContext, domain: Domain, frame: number, { idle, perDomain }: Right): void {
  const table = BigInt(xen.profile.constant('DIRECTMAP_VIRT_START')) + (BigInt(frame) << 12n);
  if (!xen.memory.isMapped(table)) return;
  const now = slotsAt(xen, table);
  const reason = `frame 0x${frame.toString(16)}, a top-level table of ${domainName(domain)}, did not map Xen`;
  let mended = 0;
  for (const [n, value] of now.entries()) {
    const slot = XEN_SLOTS.first + n;
    // A table for a guest's processes need not show them which frames are whose.
    if (slot === READ_ONLY_MPT && value === 0n) continue;
    const right = slot === LINEAR ? OWN_TABLE | (BigInt(frame) << 12n) : slot === PER_DOMAIN ? perDomain : idle[n]!;
    if (value !== right && plan.write(table + BigInt(8 * slot), 8, right, reason)) mended++;
  }
  if (mended > 0)
    plan.found(`${mended} of Xen's slots in frame 0x${frame.toString(16)}, a table of ${domainName(domain)}`);
}

function slotsAt(xen: Xen, table: bigint): bigint[] {
  const { first, last } = XEN_SLOTS;
  return Array.from({ length: last - first + 1 }, (_, n) => xen.memory.u64(table, 8 * (first + n)));
}

/** The entry that leads to what Xen maps for this domain alone; `undefined` where that cannot be told, or there is none. */
function perDomainTable(xen: Xen, { kind, object }: Domain): bigint | undefined {
  if (kind !== 'pv') return undefined;
  const page = object.u64('arch.perdomain_l3_pg');
  const frame = page === 0n ? undefined : frameOf(xen, page);
  return frame === undefined ? undefined : OWN_TABLE | (BigInt(frame) << 12n);
}
