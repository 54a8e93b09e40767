/** A hand-made story with one of everything that the timeline has to tell. */
import type { Recovery } from '../../src/recover/outcome.js';
import type { Edit } from '../../src/recover/plan.js';
import type { Story } from '../../src/report/story.js';
import { virtual } from '../../src/x86/address.js';

const memory = (step: string, reason: string): Edit => ({
  kind: 'memory',
  step,
  reason,
  address: virtual(0xffff82d040000000n),
  before: Uint8Array.of(1),
  after: Uint8Array.of(0),
});

export const recovery: Recovery = {
  failure: {
    kind: 'fatal-trap',
    cpu: 2,
    at: '0x0',
    summary: 'page fault at 0x0 on CPU 2, which Xen cannot handle',
    detectedAtMs: 1003.2,
  },
  plan: {
    mechanism: 'microreset',
    edits: [
      memory('release-locks', 'heap_lock was held'),
      memory('release-locks', 'page_alloc_lock was held'),
      memory('clear-irq-counts', 'irq_count of CPU 2 was 1'),
      {
        kind: 'call',
        step: 'acknowledge-interrupts',
        reason: 'vector 0xf0 was in service',
        cpu: 2,
        function: 'event_check_interrupt',
        arguments: [],
      },
      { kind: 'registers', step: 'send-cpus', reason: 'CPU 2 goes to ret_from_intr', cpu: 2, set: { rip: 0n } },
    ],
    steps: [
      {
        name: 'release-locks',
        removes: 'locks held by a thread that no longer exists',
        source: 'ReHype',
        findings: ['heap_lock was held by CPU 2', 'd1.page_alloc_lock was held by CPU 2', 'c', 'd', 'e', 'f'],
        edits: 2,
        durationMs: 1.1,
      },
      {
        name: 'clear-irq-counts',
        removes: 'interrupt nesting that nobody will leave',
        source: 'ReHype',
        findings: ['CPU 2: nesting count was 1'],
        edits: 1,
        durationMs: 0.1,
      },
      {
        name: 'rebuild-timers',
        removes: 'timer heaps caught in mid-update',
        source: 'ninelives',
        findings: [],
        edits: 0,
        durationMs: 0.2,
      },
      {
        name: 'acknowledge-interrupts',
        removes: 'vectors in service, which make a CPU deaf to all of the same or a lower class',
        source: 'ReHype',
        findings: ['CPU 2: vector 0xf0'],
        edits: 1,
        durationMs: 0.1,
      },
      { name: 'reprogram-apic', removes: 'x', source: 'NiLiHype', findings: [], edits: 0, durationMs: 0.1 },
      {
        name: 'send-cpus',
        removes: 'hypervisor threads',
        source: 'NiLiHype',
        findings: ['CPU 2 to ret_from_intr'],
        edits: 1,
        durationMs: 0.1,
      },
    ],
    cpus: [
      {
        cpu: 0,
        where: 'guest',
        vcpu: 'd0v0',
        backtrace: [],
        action: 'left alone',
        abandoned: false,
        retried: false,
      },
      {
        cpu: 1,
        where: 'idle',
        vcpu: 'd[IDLE]v1',
        backtrace: ['idle_loop+0x8a'],
        action: 'sent to idle_loop on a fresh stack',
        abandoned: true,
        retried: false,
      },
      {
        cpu: 2,
        where: 'xen',
        vcpu: 'd1v0',
        hypercall: 'mmu_update',
        backtrace: ['get_page_from_l1e+0x1a3', 'mod_l1_entry+0x2c1', 'do_mmu_update+0x5f0', 'pv_hypercall+0x1e0'],
        action: 'abandoned; hypercall mmu_update is retried',
        abandoned: true,
        retried: true,
      },
      {
        cpu: 3,
        where: 'xen',
        vcpu: 'd3v0',
        backtrace: ['svm_vmexit_handler+0x51'],
        action: 'abandoned; the exit happens again',
        abandoned: true,
        retried: true,
      },
    ],
    problems: [],
  },
  phases: { captureMs: 1.2, settleMs: 0.8, planMs: 4.1, checkMs: 0.3, commitMs: 0.9, resumeMs: 0.2 },
  latencyMs: 7.5,
  result: 'resumed',
};

export const story: Story = {
  setting: 'Xen 4.17.5, 4 CPUs, 2048 MiB, seed 7',
  injection: { cpu: 2, at: 'get_page_from_l1e+0x1a3', what: 'program counter set to 0', atMs: 1000 },
  recovery,
  outageMs: 11.4,
  vms: [
    { name: 'dom0', kind: 'dom0', alive: true, intact: true, note: '212 rounds' },
    { name: 'app1', kind: 'pv', alive: true, intact: true, note: '198 rounds' },
    { name: 'app2', kind: 'pv', alive: true, intact: false, note: 'checksum chain broken at round 77' },
    { name: 'app3', kind: 'pvh', alive: true, intact: true, note: '201 rounds' },
  ],
  newVm: true,
  verdict: { kind: 'success', summary: 'at most one AppVM was affected, and a new VM was created' },
};
