/**
 * Failures of real boxes, kept as capsules: every one replays, offline and for ever, to a plan without problems that finds
 * what was found then. A step that comes later may find more, never less.
 *
 * A capsule holds the pages that were read when it was written. A step that reads new places needs capsules written anew:
 * a guard leaves one for each failure when it is given a folder for them.
 */
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { knownProfiles } from '../../src/layout/profile.js';
import { loadCapsule } from '../../src/recover/capsule.js';
import { makePlan } from '../../src/recover/mechanism.js';
import { microreset } from '../../src/recover/microreset/index.js';
import type { Plan } from '../../src/recover/plan.js';
import { readEntryFacts } from '../../src/xen/entry.js';

const FOLDER = dirname(fileURLToPath(import.meta.url));

interface Expected {
  /** Step and finding. */
  readonly findings: readonly string[];
  /** Steps that have nothing to do. */
  readonly untouched?: readonly string[];
  /** Of each CPU: its vCPU and whether it is abandoned or its request retried. */
  readonly cpus: readonly string[];
}

/** CPUs 3 to 7 of the published machine, which wait. */
const IDLE = [3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} left`);

const CAPSULES: Readonly<Record<string, Expected>> = {
  /** Failstop in a PV guest's hypervisor thread while another CPU works on its timers. */
  'timer-softirq.capsule': {
    findings: [
      'per-cpu-state: CPU 1: __preempt_count cleared',
      'static-locks: CPU 1 timers was held',
      'softirqs: CPUs 2, 3, outside Xen, are told to look again',
    ],
    cpus: ['d2v0 abandoned', 'd0v1 abandoned', 'd1v0 left', 'd3v0 left'],
  },
  /** A CPU frozen at the first instruction of an interrupt's entry, another in the middle of scheduling. */
  'interrupt-entry.capsule': {
    findings: [
      'complete-frames: CPU 1: ran 34 instructions of common_interrupt on values',
      'per-cpu-state: CPU 2: __preempt_count, p2m_percpu_rwlock cleared',
      'scheduling: CPU 2 runs d3v0',
      'scheduling: d0v0 does not run',
      'scheduling: d3v0 runs on CPU 2',
      'in-service-vectors: CPU 1: vectors 250 in service',
    ],
    cpus: ['d0v1 left', 'd1v0 abandoned', 'd3v0 abandoned', 'd2v0 left'],
  },
  /** A hang on a console message, while another CPU handled the serial line's interrupt: the line would have been dead. */
  'console-line.capsule': {
    findings: [
      'static-locks: console_lock was held',
      'interrupt-handlers: CPU 0: the handler of vector 241 was dropped',
      'interrupt-handlers: interrupt line 4 was being handled',
    ],
    cpus: ['d1v0 abandoned', 'd0v1 abandoned', 'd3v0 abandoned', 'd2v0 abandoned'],
  },
  /** Failstop in `iret`, above what an earlier interrupt left on the stack: that was once taken for the failure's frame. */
  'stale-trap.capsule': {
    findings: ['retry-hypercalls: d2v0: iret was under way'],
    cpus: ['d0v0 abandoned', 'd1v0 left', 'd2v0 abandoned and retried', ...IDLE],
    untouched: ['complete-frames'],
  },
  /** All CPUs in Xen, two of them waiting for the run queue’s lock. */
  'run-queue-lock.capsule': {
    findings: [
      'per-cpu-state: CPU 0: __preempt_count, rcu_lock_cnt cleared',
      'per-cpu-state: CPU 3: __preempt_count, rcu_lock_cnt cleared',
      'heap-locks: run queue lock was held',
    ],
    cpus: ['d1v0 abandoned', 'd2v0 abandoned', 'd3v0 abandoned', 'd0v1 abandoned'],
  },
  /** Failstop right after a context switch: the stack pointer is at the guest's frame, and the registers are all Xen's. */
  'after-context-switch.capsule': {
    findings: [
      'static-locks: CPU 0 timers was held',
      'static-locks: CPU 1 timers was held',
      'in-service-vectors: CPU 0: vectors 104 in service',
    ],
    untouched: ['complete-frames'],
    cpus: ['d0v0', 'd1v0', 'd2v0']
      .map((vcpu) => `${vcpu} abandoned`)
      .concat([3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} left`)),
  },
  /** A failure before an HVM guest's exit handler had copied the guest's position: the guest went on where it had been before. */
  'exit-handler.capsule': {
    findings: ['complete-frames: CPU 1: d3v0 stood after VMRUN', 'rendezvous: CPUs in flush_cpumask: withdrawn'],
    cpus: ['d1v0 abandoned', 'd3v0 abandoned', 'd2v0 abandoned', 'd[IDLE]v3 abandoned'],
  },
  /** An HVM guest's interrupt in service and not delivered, and a PV guest in a switch whose FS and GS bases were not loaded. */
  'taken-up-interrupt.capsule': {
    findings: [
      'vm-exits: vector 243 of d3v0 was taken up and not delivered',
      'context-switch: CPU 3: from d0v1 to d2v0, loading',
    ],
    cpus: ['d3v0 abandoned', 'd1v0 left', 'd0v0 abandoned', 'd2v0 abandoned'],
  },
  /** Failstop while the timer of an interrupt line in a guest's hands was taken off its heap: it was on none and marked as being on one. */
  'timer-being-removed.capsule': {
    findings: [
      'timers: heap of CPU 0: slot 2 and its timer disagree; built anew',
      'timers: IRQ 10.eoi_timer fell off the heap',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned and retried', 'd2v0 left', ...IDLE],
  },
  /** Failstop in `alloc_heap_pages`: a page was on no list, free by its descriptor and not counted. */
  'page-being-handed-out.capsule': {
    findings: [
      'static-locks: heap_lock was held',
      'page-allocator: 1 free pages from frame 0x5fd1b were on no list',
      'page-allocator: zone 19 has 42780 free pages; counted anew',
      'page-allocator: 288284 pages are free; counted anew',
    ],
    cpus: ['d1v0 abandoned', 'd0v0 abandoned and retried', 'd0v1 abandoned', 'd[IDLE]v3 left'],
  },
  /** Failstop in `xmem_pool_free`, of which nothing is on the stack: `xfree` had jumped there, on behalf of a call that is retried. */
  'piece-given-back.capsule': {
    findings: [
      'heap-locks: xenheap pool lock was held',
      "page-allocator: 32 bytes of xmalloc's were being taken or given back; they stay in use",
      'scheduling: CPU 1 runs d[IDLE]v1',
    ],
    cpus: ['d1v0 abandoned', 'd[IDLE]v1 abandoned', 'd0v0 abandoned and retried', 'd[IDLE]v3 abandoned'],
  },
  /** A code fault kept Xen from noting that it had acknowledged dom0's interrupts: its list of them ran over its end. */
  'pending-eoi-stack.capsule': {
    findings: [
      'pending-eois: CPU 0: 0 of 207 noted interrupts are in service',
      'retry-hypercalls: d0v0: physdev_op was under way',
      'heap-locks: IRQ 25 lock was held',
    ],
    // Two CPUs have their time's scale in another form, which says the same.
    untouched: ['system-time'],
    cpus: ['d0v0 abandoned and retried', 'd1v0 left', 'd2v0 left', ...IDLE],
  },
  /** A code fault stored over what links a vCPU to the next of its domain: the scheduler looked for it at an address of nothing. */
  'next-vcpu.capsule': {
    findings: [
      'fixed-fields: d2v0: next vCPU written again',
      'static-locks: call_lock was held',
      'timers: calibration_timer was not set again',
      'pending-eois: CPU 0: 0 of 2 noted interrupts are in service',
    ],
    untouched: ['system-time'],
    cpus: [
      ...['d0v0 abandoned', 'd1v0 left', 'd2v0 abandoned', 'd[IDLE]v3 abandoned', 'd[IDLE]v4 left'],
      ...['d[IDLE]v5 left', 'd[IDLE]v6 abandoned', 'd[IDLE]v7 left'],
    ],
  },
  /** A handler of the network card's interrupt was dropped between marking dom0 and counting it: the count became 255, the card deaf. */
  'interrupt-count.capsule': {
    findings: [
      'pending-eois: CPU 0: 0 of 1 noted interrupts are in service',
      'pending-eois: IRQ 10 waits for 1 guest',
      'heap-locks: IRQ 10 lock was held',
      'in-service-vectors: CPU 0: vectors 104 in service',
    ],
    untouched: ['system-time'],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A store of the interrupts' entry became a pop of the stack pointer: two guests' last registers were not saved, and both died. */
  'stack-lost-in-entry.capsule': {
    findings: [
      "complete-frames: CPU 1: 4 registers of d1v0 taken from the failure's frame",
      "complete-frames: CPU 2: 4 registers of d2v0 taken from the failure's frame",
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A CPU failed while the entry code saved its guest's registers: the hypercall had not begun, and was taken for one that had ended. */
  'half-saved-hypercall.capsule': {
    findings: [
      "complete-frames: CPU 1: 10 registers of d1v0 taken from the failure's frame",
      'retry-hypercalls: d1v0: vcpu_op had not begun',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned and retried', 'd2v0 abandoned', ...IDLE],
  },
  /** A load became a pop, over the number of the CPU that a scheduling resource stands for. Each recovery without a repair of it failed again. */
  'scheduling-resource.capsule': {
    findings: ['fixed-fields: scheduling of CPU 1: first CPU, number of CPUs written again'],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** The entry of each interrupt wrote a pointer over the number of its own line: each interrupt was a page fault, on every CPU. */
  'vector-lines.capsule': {
    findings: [
      'vector-lines: vector 104 of CPU 0 is that of IRQ 10',
      'vector-lines: vector 250 of CPU 1 is that of no line',
    ],
    cpus: ['d0v0 left', 'd1v0 abandoned', 'd2v0 left', ...IDLE],
  },
  /** A register lost in `migrate_timer` had `set_timer` take a line out of a list: each interrupt of the network card called address 0. */
  'line-controller.capsule': {
    findings: ['line-controllers: IRQ 10: controller ioapic_level_type written again'],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** All softirqs of a CPU were pending, also those that there are not: the call of address 0 came again after each recovery. */
  'softirqs-without-handler.capsule': {
    findings: [expect.stringMatching(/^softirqs: CPU 0: softirqs 12, .*, 31 have nothing to do$/) as string],
    cpus: ['d0v0 abandoned', 'd1v0 left', 'd[IDLE]v2 left', ...IDLE],
  },
  /** A page fault was about to be handed to a guest. It came again, and was handed over once more in the middle of the guest's kernel. */
  'request-to-deliver.capsule': {
    findings: ['bounce-frames: d1v0: a request to deliver is withdrawn'],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A return jumped too far and slid into `kexec_reloc`, which loaded a page table of nothing: a triple fault. */
  'page-table-lost.capsule': {
    findings: [
      'lost-stacks: CPU 0: its stack pointer was 0xffff830238458288',
      'lost-stacks: CPU 0: its page table, at 0x0, did not map Xen',
      'heap-locks: IRQ 10 lock was held',
      'in-service-vectors: CPU 0: vectors 104 in service',
    ],
    untouched: ['complete-frames'],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 left', 'd2v0 left', ...IDLE],
  },
  /**
   * A jump into the middle of an instruction, and a return with the stack pointer in the task-state segment: what a CPU knows itself by
   * was written over by the trap, and with it what it returns to its guest on, which became a page table that is none.
   */
  'trap-at-stack-top.capsule': {
    findings: [
      'cpu-info: CPU 2: number, per-CPU data, CR4, page table of its guest written again',
      'bounce-frames: d2v0: stack segment in its frame restored',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A code fault added to a CPU's pointer to its run queue: it named none, and each recovery without a repair of it failed again. */
  'run-queue-pointer.capsule': {
    findings: ['scheduling: CPU 1 has run queue 0, and named none', 'heap-locks: run queue lock was held'],
    untouched: ['system-time'],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A code fault took from budgets that are endless: they were used up, and all vCPUs waited in the run queue while their CPUs slept. */
  'endless-budget.capsule': {
    findings: [
      'scheduling: d0v0: its unit, run queue or budget written again',
      'scheduling: d2v0: its unit, run queue or budget written again',
      'pending-eois: CPU 0: 0 of 1 noted interrupts are in service',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 left', ...[2, 3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} abandoned`)],
  },
  /** A load of `csched2_schedule` became a store, into the scheduler: its data were dom0's unit, in which a lock of theirs was "held". */
  'scheduler-data.capsule': {
    findings: ['fixed-fields: CPU pool 0: where its data are written again', 'scheduling: d2v0 does not run'],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd[IDLE]v2 abandoned', ...IDLE],
  },
  /** Timers of an idle vCPU, which nobody sets, were given times: put on the heap, one of them failed again each time it was due. */
  'idle-timers.capsule': {
    findings: [
      'timers: d1v0.singleshot_timer was about to be handled',
      'timers: heap of CPU 1: slot 1 holds a timer that is not active; built anew',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A scheduling resource had been written over, and its timer called nothing any more and was on no list: each use of it failed. */
  'scheduler-timer.capsule': {
    findings: [
      'fixed-fields: s_timer of CPU 1: function, CPU written again',
      'timers: scheduler.s_timer was between two states',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 abandoned', ...[2, 3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} abandoned`)],
  },
  /** A code fault wrote beside the lock of the network card's event channel: it said that Xen consumes the events, and dom0 got none. */
  'event-consumer.capsule': {
    findings: ['event-channels: Xen consumes no events of d0 (port 14)'],
    cpus: ['d0v0 abandoned', 'd[IDLE]v1 left', 'd2v0 left', ...IDLE],
  },
  /** A list's links were written over words of dom0's events: five were marked, masked or linked at random. */
  'event-words.capsule': {
    findings: [
      ...[16, 17, 18, 19, 24].map((port) => `event-channels: event ${port} of d0: its word was written over`),
      ...[16, 17, 18, 19].map((port) => `event-channels: event ${port} of d0v0 hung in no queue; linked`),
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** A register fault had the head of an HVM guest's list of timers taken off it: whoever went through the list failed. */
  'virtual-timers.capsule': {
    findings: ['timers: timers that interrupt d1v0: a link leads nowhere; linked anew'],
    cpus: ['d0v0 abandoned', 'd2v0 abandoned', 'd1v0 abandoned', ...IDLE],
  },
  /** A call was skipped in `do_IRQ`: a CPU slept with its timer's interrupt in service for ever, and the others waited for it to calibrate clocks. */
  'deaf-cpu.capsule': {
    findings: ['in-service-vectors: CPU 1: vectors 250 in service'],
    cpus: Array.from({ length: 8 }, (_, cpu) => `d[IDLE]v${cpu} abandoned`),
  },
  /** A link was written over the first word of what the network card's line has: 160 guests, who acknowledge in a way that there is not. */
  'line-guests.capsule': {
    findings: [
      'line-controllers: IRQ 10: guests and how they acknowledge written again',
      'pending-eois: IRQ 10 waits for 1 guest',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 left', 'd2v0 abandoned', ...IDLE],
  },
  /** Dropped while it gave back the page table that a process had left: the retry found the switch done, and the guest could never write there again. */
  'table-left-behind.capsule': {
    findings: [
      'page-tables: frame 0x20dc44, a level 4 table, had 2 references and has 1',
      'retry-hypercalls: d2v0: mmuext_op was under way',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 left', 'd2v0 abandoned and retried', ...IDLE],
  },
  /** Damaged `add_entry` put timers of other CPUs on the heap of CPU 0: a plan that gave them back to theirs left it in disorder. */
  'another-heap.capsule': {
    findings: [
      'timers: heap of CPU 0: slot 1 holds a timer of another CPU; built anew',
      'timers: d2v0.singleshot_timer fell off the heap',
    ],
    cpus: ['d0v0 left', 'd[IDLE]v1 left', 'd2v0 abandoned and retried', ...IDLE],
  },
  /** A code fault made a CPU shift what is at a vCPU's address: its number. Each recovery without a repair of it failed again. */
  'vcpu-number.capsule': {
    findings: ['fixed-fields: d0v0: number written again', 'fixed-fields: d1v0: number written again'],
    cpus: ['d0v0 abandoned', 'd2v0 abandoned', 'd1v0 abandoned', ...IDLE],
  },
  /** A load of `get_s_time` became a store: two CPUs counted time by an address, and their timers never came. */
  'time-scale.capsule': {
    findings: ['system-time: CPU 0: the scale of its time written again'],
    cpus: [
      'd0v0 abandoned',
      'd2v0 abandoned',
      'd1v0 abandoned',
      'd[IDLE]v3 left',
      'd[IDLE]v4 left',
      'd[IDLE]v5 left',
      'd[IDLE]v6 left',
      'd[IDLE]v7 left',
    ],
  },
  /** Each reading of the clock put a CPU's time forward: two guests were told that it was minutes later, and stood once it was set back. */
  'told-time.capsule': {
    findings: [
      'system-time: CPU 2: its time was off by 604890 ms',
      "system-time: Xen's time goes on 1062951 ms ahead, where a guest has it",
    ],
    cpus: [0, 1, 2, 3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} abandoned`),
  },
  /** A load that became a store put an address that is no timer into the heaps of two CPUs. */
  'heap-slot.capsule': {
    findings: [
      'timers: heap of CPU 0: slot 1 holds a timer that is not active; built anew',
      'timers: IRQ 10.eoi_timer fell off the heap',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd[IDLE]v1 abandoned', 'd1v0 abandoned', ...IDLE],
  },
  /** A bit flip in `timer_softirq_action`: the timer was off the heap, and not yet the one whose handler runs. Its VM slept for ever. */
  'timer-about-to-be-handled.capsule': {
    findings: ['timers: d2v0.singleshot_timer was about to be handled'],
    cpus: ['d[IDLE]v0 abandoned', 'd2v0 abandoned', 'd1v0 abandoned', ...IDLE],
  },
  /** A damaged switch of contexts gave vCPUs the idle units of their CPUs: whoever woke them woke nobody, and every CPU slept. */
  'idle-units.capsule': {
    findings: [
      ...[0, 1, 2].map((domain) => `fixed-fields: d${domain}v0: scheduling unit written again`),
      ...[0, 1, 2].map((domain) => `scheduling: d${domain}v0 does not run`),
      'in-service-vectors: CPU 0: vectors 104 in service',
    ],
    cpus: [0, 1, 2, 3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} abandoned`),
  },
  /** A damaged `csched2_schedule` let no vCPU be switched to: the idle ones ran in guests' units, which are to stay the guests'. */
  'idle-in-guests-units.capsule': {
    findings: [
      ...[0, 1, 2].map((cpu) => `fixed-fields: d[IDLE]v${cpu}: scheduling unit written again`),
      ...[0, 1, 2].map((domain) => `scheduling: d${domain}v0 does not run`),
    ],
    cpus: [0, 1, 2, 3, 4, 5, 6, 7].map((cpu) => `d[IDLE]v${cpu} abandoned`),
  },
  /**
   * A damaged `csched2_schedule` took the piece of heap before credit2's data for a run queue, and each piece before that: it locked
   * them and wrote loads into credit2's data, the scheduler, the CPU pool and its masks.
   */
  'neighbours-of-the-scheduler.capsule': {
    findings: [
      "fixed-fields: CPU pool 0: what its scheduler calls, its scheduler's pool, scheduler, CPUs, scheduling resources written again",
      'fixed-fields: list of CPU pools: a backward link differs from the forward one; linked anew',
      'scheduling: run queues of credit2: a link leads nowhere; linked anew',
      'scheduling: CPUs that credit2 schedules: written again',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** Failstop at the last instruction of the delivery of an event: delivered twice, the guest's kernel found itself in its own handler. */
  'delivery-complete.capsule': {
    findings: [],
    untouched: ['bounce-frames'],
    cpus: ['d0v0 left', 'd2v0 left', 'd1v0 abandoned', ...IDLE],
  },
  /**
   * A bit flip in `do_IRQ`: every CPU counted itself out of an interrupt seventeen times. The one that ran dom0 was in its guest; taken to
   * be in an interrupt it handed dom0 the page fault of a write to a page table, which Xen carries out.
   */
  'nesting-everywhere.capsule': {
    findings: [0, 1, 3, 4, 5, 6, 7].map((cpu) => `per-cpu-state: CPU ${cpu}: IRQ nesting cleared`),
    cpus: ['d0v0 left', 'd1v0 abandoned and retried', 'd2v0 abandoned', ...IDLE],
  },
  /** A bit flip in `create_bounce_frame`: Xen was about to crash four vCPUs, each with its delivery all but complete. One ran a process. */
  'crash-in-delivery.capsule': {
    findings: ['d0v0', 'd3v0', 'd1v0', 'd0v1'].map((vcpu) => `bounce-frames: ${vcpu}: a delivery was all but complete`),
    cpus: ['d0v0 abandoned', 'd3v0 abandoned', 'd1v0 abandoned', 'd0v1 abandoned'],
  },
  /**
   * A bit flip in `evtchn_fifo_set_pending`: 0x77 bytes before dom0's event queues, which lie right behind a CPU's stack, a bit was set
   * in the frame of dom0's vCPU. The CPU was idle; dom0 panicked when it went back to it.
   */
  'frame-behind-stack.capsule': {
    findings: [
      'bounce-frames: d0v0: stack segment in its frame restored',
      'event-channels: an event for d0v0 (port 1) was on its way',
      'event-channels: event queue 1 of d0v0: it has the number of another; written again',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd[IDLE]v1 left', 'd2v0 left', ...IDLE],
  },
  /**
   * Another one there: half of the address of two vCPUs' control blocks was that of an event channel, which Xen maps as well. It
   * set the queues' "ready" bits in the channel's lock, and dom0 got no event any more.
   */
  'control-block.capsule': {
    findings: [
      'event-channels: control block of the events of d0v0 was another; written again',
      'event-channels: control block of the events of d1v0 was another; written again',
      'event-channels: an event for d1v0 (port 3) was on its way',
    ],
    cpus: ['d[IDLE]v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /**
   * A bit flip in `test_all_events`: a jump became a push, so that guests' registers were loaded from places one word too low. IRET of dom0's
   * CPU failed; d1 was about to be crashed, since the exit had marked its code segment instead of its flags.
   */
  'pushed-on-exit.capsule': {
    findings: [
      'complete-frames: CPU 0: registers of d0v0 were loaded into others; lost: rdi',
      'bounce-frames: d0v0: code segment in its frame restored',
      'bounce-frames: d1v0: code segment in its frame restored',
    ],
    cpus: ['d0v0 abandoned', 'd1v0 abandoned', 'd2v0 abandoned', ...IDLE],
  },
  /** QEMU had saved Xen's own state as a PVH guest's: it met a triple fault, and Failstop hit Xen while it told so. */
  'guest-with-xens-state.capsule': {
    findings: ['static-locks: console_lock was held', 'heap-locks: d1 p2m lock.lock was held'],
    cpus: ['d1v0 abandoned', 'd1v1 abandoned'],
  },
  /** A flipped bit of a register had Xen's slots of a new top-level table made four bytes too far on; the CPU that loaded it shut down. */
  'misplaced-slots.capsule': {
    findings: [
      'lost-stacks: CPU 0: its page table, at 0x471cc000, did not map Xen',
      "xen-slots: 6 of Xen's slots in frame 0x471cc, a table of d3",
    ],
    cpus: ['d3v0 abandoned and retried', 'd3v1 left'],
  },
};

function replay(name: string): Plan {
  const capsule = loadCapsule(join(FOLDER, name));
  const without = new Set(capsule.without);
  return makePlan(microreset, capsule.xen, readEntryFacts(capsule.xen), { without });
}

const findingsOf = ({ steps }: Plan): string[] =>
  steps.flatMap(({ name, findings }) => findings.map((finding) => `${name}: ${finding}`));

describe.each(Object.entries(CAPSULES))('%s', (name, { findings, untouched = [], cpus }) => {
  it('replays to a plan without problems, twice the same', () => {
    const plan = replay(name);
    expect(plan.problems).toEqual([]);
    expect(replay(name)).toEqual(plan);
  });

  it('finds what was wrong then', () => {
    expect(findingsOf(replay(name))).toEqual(expect.arrayContaining([...findings]));
  });

  it('leaves alone what was right then', () => {
    const repaired = replay(name).edits.map(({ step }) => step);
    expect(untouched.filter((step) => repaired.includes(step))).toEqual([]);
  });

  it('tells what every CPU was doing, and sends each abandoned one somewhere', () => {
    const plan = replay(name);
    const told = plan.cpus.map(
      ({ vcpu, abandoned, retried }) => `${vcpu} ${abandoned ? 'abandoned' : 'left'}${retried ? ' and retried' : ''}`,
    );
    expect(told).toEqual(cpus);
    const placed = plan.edits.filter((edit) => edit.kind === 'registers' && edit.set.rip !== undefined);
    expect(placed).toHaveLength(plan.cpus.filter((cpu) => cpu.abandoned).length);
  });

  it('is of a build that has a profile', () => {
    const { xen } = loadCapsule(join(FOLDER, name));
    expect(knownProfiles().map(({ buildId }) => buildId)).toContain(xen.profile.buildId);
  });
});

it('every capsule in this folder is expected to be something', () => {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.capsule'));
  expect(new Set(files)).toEqual(new Set(Object.keys(CAPSULES)));
});
