/**
 * Which part of Xen a function belongs to, from its name alone: all that a record has. Names are those of Xen 4.17; each row says the
 * source files whose functions it is meant for. The first row that fits counts. `docs/guides/reading-reports.md` shows the parts to readers.
 */

export interface Subsystem {
  readonly name: string;
  /** Source files, below `xen/`; empty where another row of the same name has them. */
  readonly files: string;
  readonly functions: RegExp;
}

export const OTHER_SUBSYSTEM = 'other';

/** Prefixes that decide alone, whatever else is in the name: `svm_set_tsc_offset` is SVM's, not the clock's. */
const BY_PREFIX: readonly Subsystem[] = [
  {
    name: 'IOMMU and PCI',
    files: 'drivers/passthrough/**, drivers/pci/**',
    functions:
      /iommu|vtd|dmar|drhd|ivrs|^(ats|qinval|pci|pdev|msix?)_|domain_context_(un)?map|iotlb|dma_msi|^parse_dmar/,
  },
  {
    name: 'HVM, SVM and VMX',
    files: '',
    functions:
      /^_*(svm|vmx|nsvm|nvmx|vvmx|vmcs|vvmcs|vmcb|asid|nestedsvm|vmtrace|hvm_(save|load|vcpu|domain|set_cr|msr|copy|get|flush|update|hypercall|monitor))_?/,
  },
  {
    name: 'virtual interrupt controllers and devices',
    files: '',
    functions:
      /^_*(vlapic|vioapic|vpic|viridian|stimer|hpet_(read|write|range|set|load|save|get_comparator|timer_fired)|hvm_?emulate|hvm_(mmio|portio|io|isa|gsi|pirq|dpci)|irq_(load|save)_|vmsi|pmt|rtc|stdvga)/,
  },
  {
    name: 'memory management, HVM (p2m, HAP, shadow)',
    files: '',
    functions: /^_*(sh|shadow|hap|p2m|paging|guest_walk|oos|altp2m|guest_physmap|l[1-4]e_propagate)_|_p2m_|^validate_g/,
  },
  {
    name: 'scheduler',
    files: '',
    functions:
      /^_*(csched2?|rt|null|sched|cpupool|vcpu_(singleshot|periodic|set_periodic|set_(hard_|soft_)?affinity|temporary)|poll_timer|do_(poll|schedule|set_timer_op)|s_timer_fn|dump_runq|domain_update_node_aff)/,
  },
  {
    name: 'domain control and hypercalls',
    files: '',
    functions:
      /^_*(console|ns16550|conring|hypfs|(get|free|alloc)_.*pirq_struct|rcu_lock_(remote_|live_)?(remote_)?domain|prepare_ring|destroy_ring|populate_physmap|memory_exchange|do_memory_op|xenmem|compat_memory_op)/,
  },
  {
    name: 'memory management, PV',
    files: '',
    functions:
      /^_*((un)?map_domain_page|mapcache|(make|update|switch)_cr3|l[1-4]t_(un)?lock|steal_page|cleanup_page|is_iomem_page|alloc_xen_pagetable)/,
  },
  {
    name: 'entry, exit and traps',
    files: '',
    functions:
      /^_*(do_(nmi|callback_op|set_callbacks|set_gdt|[gs]et_debugreg|stack_switch|set_segment_base|update_descriptor|unhandled_trap)|toggle_guest|vcpu_(show|init_fpu|setup_fpu|destroy_fpu)|exception_with_ints|autogen_stubs|register_guest|(read|write)_cr|x86_msr|parse_pcid)/,
  },
  {
    name: 'interrupts and APIC',
    files: '',
    functions: /^_*(apic_timer|irq_|nmi_|(dis|en)able_APIC|.*domain_e?m?u?i?r?q?_?pirq|flush_area_mask|new_tlbflush)/,
  },
  {
    name: 'basic functions (strings, bits, lists, lookup)',
    files: '',
    functions:
      /^_*(radix|rangeset|simple_strto|v?x?a?s(c|n)*printf|xvasprintf|xasprintf|number|rb_|elf_|is_active_kernel_text|xensyms|symbols)/,
  },
];

export const SUBSYSTEMS: readonly Subsystem[] = [
  ...BY_PREFIX,
  {
    name: 'grant tables',
    files: 'common/grant_table.c',
    functions:
      /shared_entry_header|_set_status|unmap_common|gnttab|grant|maptrack|^(acquire|release)_.*gref|active_entry/,
  },
  {
    name: 'event channels',
    files: 'common/event_*.c, arch/x86/hvm/irq.c (callbacks)',
    functions: /evtchn|event_channel|^port_is|^notify_via_xen|send_guest_|vcpu_mark_events_pending|virq/,
  },
  {
    name: 'timers and time',
    files: 'common/timer.c, arch/x86/{time,hpet,apic}.c (deadlines)',
    functions:
      /timer|heap_(up|down)|^(add|remove|down|up)_(to_|from_)?(heap|entry)|hpet|pit_|^(get|read|scale|update|calibrate|version_update)_.*(time|tsc|clock)|get_s_time|^NOW$|tsc|time_calibration|platform_time|^pt_|vpt|rtc_|pmt_|update_vcpu_system_time|read_clocks|periodic_time|get_sec|wallclock|scale_delta|gmtime|plt_|mktime|read_counter/,
  },
  {
    name: 'scheduler',
    files: 'common/sched/*.c, arch/x86/domain.c (context switch)',
    functions:
      /^(csched2?|null_|rt_|sched_|schedule|unit_|vcpu_(wake|sleep|block|unblock|runnable|migrate|kick|yield|pause|unpause)|domain_(pause|unpause)|context_switch|context_saved|__context|continue_(running|idle)|do_sched_op|do_yield|do_block|runq_|__?runq|burn_credits|update_(load|max_weight)|tickle|cpupool|cpu_schedule|balance_|idle_loop|default_idle|need_iopl|rcu_lock_sched|sync_(local|vcpu)_execstate)|_runq_|runstate|deadlock_sched/,
  },
  {
    name: 'softirqs, tasklets, RCU',
    files: 'common/{softirq,tasklet,rcupdate,stop_machine}.c',
    functions: /softirq|tasklet|^__?rcu|^rcu_|call_rcu|stopmachine|stop_machine|force_quiescent/,
  },
  {
    name: 'locks',
    files: 'common/{spinlock,rwlock}.c',
    functions: /spin_(un)?lock|spin_(try|is|barrier)|(read|write|percpu)_(un|try)?lock|rwlock|^lock_|got_lock|observe_/,
  },
  {
    name: 'page allocator and heap',
    files: 'common/{page_alloc,xmalloc_tlsf,vmap}.c',
    functions:
      /alloc_(heap|dom|xen)heap|(alloc|free|scrub|reserve|init|map|assign|steal|unmap)_.*(heap|pages?$)|xmalloc|xfree|xmem_pool|xzalloc|^_?v(map|unmap|malloc|free)|^__?vmap|domain_adjust_tot|scrub|avail_|offline_page|online_page|claims|page_list|^free_domheap|buddy/,
  },
  {
    name: 'memory management, PV',
    files: 'arch/x86/mm.c, arch/x86/pv/mm.c, arch/x86/flushtlb.c',
    functions:
      /mmu(ext)?_(update|op)|mod_l[1-4]|(get|put|alloc|free|validate|devalidate|promote|demote)_page|page_from_l|page_type|(alloc|free|promote|demote)_l[1-4]|page_(get|put|lock|unlock)|update_va_mapping|new_guest_cr3|guest_(get|map)_|map_guest_l|domain_page|map_domain|unmap_domain|get_page|put_page|adjust_guest|set_domain|flush_(tlb|area|mask)|tlbflush|switch_cr3|write_ptbase|cleanup_page_cacheattr|_?put_final|update_intpte|paging_mark|ro_page_fault|ptwr|do_update_descriptor|toggle_guest|pv_map_ldt|do_memory_op|memory_exchange|populate_physmap|xenmem|modify_xen_mappings|map_pages_to_xen|virt_to_xen|mfn_valid|share_xen/,
  },
  {
    name: 'memory management, HVM (p2m, HAP, shadow)',
    files: 'arch/x86/mm/**',
    functions:
      /p2m|^hap_|^sh_|shadow|^guest_walk|nested_|paging_|ept_|altp2m|mem_(access|sharing|paging)|log_dirty|__get_gfn|get_gfn|put_gfn|gfn_/,
  },
  {
    name: 'virtual interrupt controllers and devices',
    files: 'arch/x86/hvm/{vlapic,vioapic,vpic,vmsi,irq,io,intercept,hpet,rtc}.c, common/ioreq.c',
    functions:
      /vlapic|vioapic|vpic|vmsi|^hvm_(io|isa|gsi|pci|inject|set_|assert|deassert|vcpu_(has|ack)|interrupt|hypervisor_ack)|ioreq|io_(accept|handler)|hvmemul|hvm_process_io|handle_(mmio|pio)|msixtbl|vpci|stdvga|viridian|intercept/,
  },
  {
    name: 'HVM, SVM and VMX',
    files: 'arch/x86/hvm/**',
    functions: /^_?svm|^vmx|^vmcs|^vmcb|^nsvm|^nvmx|hvm|^asid_|vmexit|^virtual_vmcs|svm_|vmcb/,
  },
  {
    name: 'interrupts and APIC',
    files: 'arch/x86/{irq,io_apic,apic,i8259,msi,smp,nmi}.c',
    functions:
      /^(do_IRQ|do_nmi|__do_IRQ|irq_|.*_irq$|.*_irq_|.*_ipi|apic|ack_|end_|mask_|unmask_|set_msi|msi_|io_apic|ioapic|pirq|desc_|smp_|call_function|send_IPI|x2apic|nmi|event_check|invalidate_interrupt|eoi|flush_ready_eoi|pci_|iommu|amd_iommu|vector|raise_|enter_irq|exit_irq|__?set_eoi|process_pending)|irq|IPI|ioapic|cpu_notifier/,
  },
  {
    name: 'entry, exit and traps',
    files: 'arch/x86/{traps.c,x86_64/**,pv/**}',
    functions:
      /^(entry_|lstar_|cstar_|sysenter|int80|int82|restore_all|handle_|ret_from|test_all|test_guest|process_|compat_|iret|do_(page_fault|trap|general|debug|int3|device|reserved|double|machine|entry|invalid|fpu|simd|iret|set_trap)|continue_pv|create_bounce|pv_|fixup_|search_|svm_stgi|__x86|trap|fatal_trap|show_|copy_(to|from)_guest|copy_(to|from)_user|__copy|raw_copy|__get_user|__put_user|emul|x86_emulate|x86emul|read_msr|write_msr|guest_(rdmsr|wrmsr|cpuid|io)|vpmu|inject|page_fault|early_page|spec_ctrl|hypercall|int_|failsafe|switch_to_kernel|fpu_|vcpu_(save|restore)_fpu|xsave|xrstor|save_segments|load_segments)|_exception|bounce/,
  },
  {
    name: 'domain control and hypercalls',
    files: 'common/{domain,domctl,sysctl,kernel,memory,multicall,compat/*}.c',
    functions:
      /^_*(do_|arch_do_|domain_|complete_domain|continue_hypercall|map_vcpu_info|unmap_vcpu_info|common_vcpu|domctl|arch_|vcpu_|sysctl|multicall|rcu_lock_domain|get_domain|put_domain|lock_domain|for_each|evict|dom|alloc_vcpu|alloc_domain|free_vcpu|rangeset|radix|xsm|flask|console|serial|ns16550|printk|vprintk|__putstr|guest_console|argo|hypfs|livepatch)/,
  },
  {
    name: 'basic functions (strings, bits, lists, lookup)',
    files: 'common/{lib,bitmap,vsprintf,symbols,string,rbtree,list}.c, lib/**',
    functions:
      /bit(map)?|^(mem|str|__mem|__str|vsn|sn|scn|list_|rb_|symbols|__find|find_|cpumask|hweight|clear_page|copy_page|__udiv|sort|ct_)|cpumask|ring/,
  },
];

/** `schedule` of `schedule+0x1c4`, `sched/core.c#schedule+0x1c4` or `schedule`; an address stays as it is. */
export function functionOf(at: string): string {
  const name = at.replace(/[+/].*$/, (rest) => (rest.startsWith('/') && at.includes('#') ? rest : ''));
  const hash = at.indexOf('#');
  return hash < 0 ? name : at.slice(hash + 1).replace(/\+.*$/, '');
}

/** The part of Xen that `function+offset` belongs to. */
export function subsystemOf(at: string): string {
  const name = functionOf(at);
  return SUBSYSTEMS.find(({ functions }) => functions.test(name))?.name ?? OTHER_SUBSYSTEM;
}
