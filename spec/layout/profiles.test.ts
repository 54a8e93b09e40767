/** The profiles that come with ninelives: facts that are known from elsewhere must be found in them. */
import { statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { lockSites } from '../../src/layout/locks.js';
import { knownProfiles, loadProfile } from '../../src/layout/profile.js';

const STOCK = [
  ['39a640e6f1412319235087391df9f1c5e13ae920', '4.17.5+72-g01140da4e8-1'],
  ['151b373fd64b321593bf987fd923cd10dabadac4', '4.17.7+13-g2445b30a44-0+deb12u1'],
] as const;

it('both Debian builds have one, and each is small', () => {
  for (const [buildId, version] of STOCK) {
    expect(knownProfiles()).toContainEqual({ buildId, version });
    expect(statSync(new URL(`../../profiles/${buildId}.json`, import.meta.url)).size).toBeLessThan(1_500_000);
  }
});

describe.each(STOCK)('the profile %s', (buildId, version) => {
  const profile = loadProfile(buildId);

  it('is of the version it says, and was checked against its code', () => {
    expect(profile.version).toBe(version);
    const { text } = profile.made;
    expect(['same-code', 'layouts-hold']).toContain(text.verdict);
    expect(text.same).toBeGreaterThan(text.functions * 0.99);
    expect(text.accessesConfirmed).toBeGreaterThan(text.accesses * 0.99);
  });

  it('has the sizes that the architecture and Xen fix', () => {
    expect(profile.struct('cpu_user_regs').size).toBe(200);
    expect(profile.struct('page_info').size).toBe(32);
    expect(profile.struct('vmcb_struct').size).toBe(4096);
    expect(profile.struct('spinlock_t').size).toBe(8);
    expect(profile.struct('evtchn').size).toBe(64);
    expect(profile.struct('domain').size).toBeLessThanOrEqual(4096);
    // The save area that the entry code builds: the error code stands below what the processor pushes.
    expect(profile.struct('cpu_user_regs').field('rip').offset).toBe(128);
    expect(profile.struct('vmcb_struct').field('rip').offset).toBe(0x578);
  });

  it('has the symbols that recovery starts from', () => {
    const names = [
      'lstar_enter',
      'common_interrupt',
      'ret_from_intr',
      'restore_all_guest',
      'svm_asm_do_resume',
      'idle_loop',
      'schedule',
      'domain_list',
      'idle_vcpu',
      '__per_cpu_offset',
      'stack_base',
    ];
    for (const name of names) expect(profile.hasSymbol(name), name).toBe(true);
    expect(profile.describe(profile.symbol('restore_all_guest') + 3n)).toBe('restore_all_guest+0x3');
    expect(profile.isText(profile.symbol('schedule'))).toBe(true);
    // Code that Xen frees after boot is no place to return to.
    expect(profile.isText(profile.symbol('__start_xen'))).toBe(false);
  });

  it('has per-CPU variables with their types', () => {
    expect(profile.variableType('per_cpu__timers')).toEqual({ kind: 'struct', name: 'timers' });
    expect(profile.variableType('per_cpu__curr_vcpu')).toEqual({
      kind: 'pointer',
      to: { kind: 'struct', name: 'vcpu' },
    });
    for (const name of [
      'per_cpu____preempt_count',
      'per_cpu__rcu_lock_cnt',
      'per_cpu__mm_lock_level',
      'per_cpu__p2m_percpu_rwlock',
    ])
      expect(profile.hasSymbol(name) && profile.variableType(name), name).toBeTruthy();
  });

  it('has the structs of both schedulers, timers, events, grants and pages', () => {
    const names = [
      'csched_private',
      'csched_pcpu',
      'csched_unit',
      'csched2_private',
      'csched2_runqueue_data',
      'csched2_unit',
      'sched_unit',
      'sched_resource',
      'timer',
      'timers',
      'rcu_data',
      'tasklet',
      'grant_table',
      'active_grant_entry',
      'evtchn_fifo_domain',
      'evtchn_fifo_vcpu',
      'evtchn_fifo_queue',
      'irq_desc',
      'irq_guest_action_t',
      'msi_desc',
      'xmem_pool',
      'hvm_vcpu',
      'svm_vcpu',
      'p2m_domain',
      'radix_tree_root',
      'waitqueue_head',
      'domain',
      'vcpu',
      'cpu_info',
    ];
    expect(names.filter((name) => !profile.hasStruct(name))).toEqual([]);
  });

  it('has every lock, so also those that no list would have', () => {
    const { globals, perCpu, inStruct } = lockSites(profile);
    expect(globals.length).toBeGreaterThanOrEqual(55);
    expect(globals.map((g) => g.name)).toEqual(
      expect.arrayContaining(['heap_lock', 'domctl_lock', 'console_lock', 'domlist_update_lock']),
    );
    expect(perCpu.map((p) => `${p.name}.${p.path}`)).toContain('per_cpu__timers.lock');
    const inDomain = inStruct.get('domain') ?? [];
    expect(inDomain.find((s) => s.path === 'arch.hvm.irq_lock')?.arm).toBe('arch.hvm');
    expect(inDomain.find((s) => s.path === 'domain_lock')?.arm).toBeUndefined();
    expect(inStruct.get('evtchn')).toEqual([{ path: 'lock', offset: 0, kind: 'rwlock' }]);
    expect(inStruct.get('evtchn_fifo_queue')).toContainEqual({
      path: 'lock',
      offset: profile.struct('evtchn_fifo_queue').field('lock').offset,
      kind: 'spinlock',
    });
    // Every global one can be found in memory.
    for (const { name } of globals) expect(() => profile.symbol(name)).not.toThrow();
  });

  it('has every variable under a name that has an address', () => {
    for (const name of profile.variableNames) expect(() => profile.symbol(name)).not.toThrow();
  });

  it('agrees with itself about the constants that are enums as well', () => {
    for (const name of ['TIMER_SOFTIRQ', 'RCU_SOFTIRQ', 'SCHEDULE_SOFTIRQ', 'TASKLET_SOFTIRQ', 'NR_COMMON_SOFTIRQS'])
      expect(profile.constant(name)).toBe(profile.enumValue(name));
    const base = profile.image[0]!.address;
    expect(base).toBe((profile.constant('XEN_VIRT_START') as bigint) + 0x200000n);
  });
});

it('the two builds differ where the security update changed structs', () => {
  const [old, next] = STOCK.map(([id]) => loadProfile(id));
  expect(old!.struct('domain').hasField('caps_lock')).toBe(false);
  expect(next!.struct('domain').hasField('caps_lock')).toBe(true);
  expect(next!.struct('vcpu').field('runstate').offset - old!.struct('vcpu').field('runstate').offset).toBe(8);
});
