/**
 * Parts of Xen, as sets of functions. A profile does not say from which file a function comes, so a part is described by how its
 * functions are named (Xen 4.17: common/sched/, common/timer.c, arch/x86/mm.c, common/page_alloc.c, common/grant_table.c,
 * common/event_*.c); what the compiler has inlined into another part belongs to that.
 */
import type { Profile } from '../layout/profile.js';

export const SUBSYSTEMS = ['scheduler', 'timers', 'mm', 'grant-tables', 'event-channels'] as const;
export type Subsystem = (typeof SUBSYSTEMS)[number];

/** Names that begin a function of the part; suffixes of compiler clones (`.isra.0`, `.part.0`) do not count. */
const NAMES: Readonly<Record<Subsystem, RegExp>> = {
  scheduler:
    /^(csched2?_\w+|sched_\w+|schedule|runq_\w+|burn_credits|unit_(context_saved|grab_budget)|replenish_domain_budget|do_sched_op|vcpu_(wake|block|unblock|sleep_\w+|pause|pause_nosync|unpause|yield|runstate_\w+)|do_poll|vcpu_block_enable_events)$/,
  timers:
    /^((set|stop|init|kill|migrate|execute)_timer|timer_softirq_action|(remove_from|add_to|up|down)_heap|(add|remove|activate|deactivate)_(entry|timer)|reprogram_timer|align_timer|timer_expires_before|do_set_timer_op|vcpu_(singleshot|periodic)_timer_\w+|s_timer_fn|send_timer_event|apic_timer_interrupt)$/,
  mm: /^(_?get_page(_\w+)?|_?put_page(_\w+)?|(alloc|free)_(domheap|heap|xenheap)_pages|do_mmu_update|do_mmuext_op|do_update_va_mapping(_otherdomain)?|do_memory_op|mod_l[1234]_entry|(alloc|free|promote|demote)_l[1234]_table|devalidate_page|cleanup_page_mappings|page_(lock|unlock)\w*|page_get_owner_and_reference|(un)?map_domain_page(_global)?|_?xmalloc|_?xzalloc|xfree|xmem_pool_\w+|assign_pages?|steal_page|update_xen_mappings|map_pages_to_xen|modify_xen_mappings|p2m_(get|set|pt|next|add|remove|switch|tlb)_\w+|hvm_hap_nested_page_fault|(un)?map_guest_l1e|populate_physmap|decrease_reservation|memory_exchange|guest_remove_page)$/,
  'grant-tables':
    /^(gnttab_\w+|do_grant_table_op|(acquire|release)_grant_for_copy|(create|replace)_grant_\w+|\w*maptrack_handle|nr_grant_entries|fixup_status_for_copy_pin|unmap_common(_complete)?|_set_status(_v[12])?|grant_table_\w+)$/,
  'event-channels':
    /^(evtchn_(?!\w*init$)\w+|do_event_channel_op|send_(guest_)?(global|vcpu)_virq|send_guest_pirq|(alloc_unbound|free|notify_via)_xen_event_channel|vcpu_mark_events_pending|arch_evtchn_\w+|lock_old_queue|double_evtchn_(un)?lock)$/,
};

export interface CodeRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** The code of each function of the part, ascending by address. Boot code is not part of it. */
export function codeOf(profile: Profile, subsystem: Subsystem): CodeRange[] {
  const ranges: CodeRange[] = [];
  for (const { name, address, kind, size } of profile.symbols.all) {
    if (kind !== 'function' || size === 0 || !profile.isText(address)) continue;
    if (!NAMES[subsystem].test(name.replace(/\.(isra|part|constprop|cold)\b.*$/, ''))) continue;
    ranges.push({ start: address, end: address + BigInt(size) });
  }
  return ranges.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}

export const isIn = (ranges: readonly CodeRange[], address: bigint): boolean =>
  ranges.some(({ start, end }) => address >= start && address < end);
