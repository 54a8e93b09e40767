import { describe, expect, it } from 'vitest';
import { functionOf, OTHER_SUBSYSTEM, subsystemOf } from '../../src/report/subsystems.js';

describe('the function of a place', () => {
  it.each([
    ['schedule+0x1c4', 'schedule'],
    ['schedule+0x1c4/0x600', 'schedule'],
    ['common/sched/core.c#schedule+0x1c4', 'schedule'],
    ['restore_all_guest', 'restore_all_guest'],
    ['0xffff82d040201234', '0xffff82d040201234'],
  ])('%s is in %s', (at, name) => {
    expect(functionOf(at)).toBe(name);
  });
});

describe('the subsystem of a place', () => {
  it.each([
    ['schedule+0x1c4', 'scheduler'],
    ['csched2_schedule+0x10', 'scheduler'],
    ['context_switch+0x17a', 'scheduler'],
    ['timer_softirq_action+0x182', 'timers and time'],
    ['reprogram_timer+0x80', 'timers and time'],
    ['__do_softirq+0x5a', 'softirqs, tasklets, RCU'],
    ['_spin_lock+0x2', 'locks'],
    ['gnttab_copy+0x20', 'grant tables'],
    ['evtchn_send+0x20', 'event channels'],
    ['do_mmu_update+0x589', 'memory management, PV'],
    ['new_guest_cr3+0xc1', 'memory management, PV'],
    ['alloc_heap_pages+0x1', 'page allocator and heap'],
    ['p2m_get_entry+0x1', 'memory management, HVM (p2m, HAP, shadow)'],
    ['svm_vmexit_handler+0x1', 'HVM, SVM and VMX'],
    ['vlapic_ipi+0x1', 'virtual interrupt controllers and devices'],
    ['do_IRQ+0x1', 'interrupts and APIC'],
    ['restore_all_guest+0x8d', 'entry, exit and traps'],
    ['do_multicall+0x1', 'domain control and hypercalls'],
    ['__bitmap_empty+0x2', 'basic functions (strings, bits, lists, lookup)'],
    ['0x0', OTHER_SUBSYSTEM],
  ])('%s belongs to %s', (at, name) => {
    expect(subsystemOf(at)).toBe(name);
  });
});
