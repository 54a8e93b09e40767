import { describe, expect, it } from 'vitest';
import { stripColors, visibleLength } from '../../src/report/style.js';
import { timeline } from '../../src/report/timeline.js';
import { recovery, story } from './story.fixture.js';

const told = (width = 100): string => timeline(story, { width, colors: 'plain' }).join('\n');

describe('timeline', () => {
  it('tells the whole story', () => {
    expect(told()).toMatchInlineSnapshot(`
      "Xen 4.17.5, 4 CPUs, 2048 MiB, seed 7

              0  ●  broken  CPU 2 at get_page_from_l1e+0x1a3: program counter set to 0
                 │
        +3.2 ms  ●  detected: fatal-trap  page fault at 0x0 on CPU 2, which Xen cannot handle
                 │
                 ●  frozen  4 CPUs: 3 abandoned, 2 retried, 1 left alone
                 │  CPU  0  d0v0       in the guest  left alone
                 │  CPU  1  d[IDLE]v1  idle          sent to idle_loop on a fresh stack
                 │          idle_loop+0x8a
                 │  CPU  2  d1v0       mmu_update    abandoned; hypercall mmu_update is retried
                 │          get_page_from_l1e+0x1a3 ← mod_l1_entry+0x2c1 ← do_mmu_update+0x5f0 ← …
                 │  CPU  3  d3v0       in Xen        abandoned; the exit happens again
                 │          svm_vmexit_handler+0x51
                 │
                 ●  microreset  5 edits by 4 of 6 steps, 1 call of Xen's own functions
                 │  ✓ release-locks              2  locks held by a thread that no longer exists
                 │      · heap_lock was held by CPU 2
                 │      · d1.page_alloc_lock was held by CPU 2
                 │      · c
                 │      · d
                 │      · and 2 more
                 │  ✓ clear-irq-counts           1  interrupt nesting that nobody will leave
                 │      · CPU 2: nesting count was 1
                 │  ✓ acknowledge-interrupts     1  vectors in service, which make a CPU deaf to all of
                 │                                  the same or a lower class
                 │      · CPU 2: vector 0xf0
                 │  ✓ send-cpus                  1  hypervisor threads
                 │      · CPU 2 to ret_from_intr
                 │    nothing to repair: rebuild-timers, reprogram-apic
                 │
       +10.7 ms  ●  resumed  latency 7.5 ms
                 │  █████████████▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓░░░██████████▒▒
                 │  █ capture 1.2  ▒ settle 0.8  ▓ plan 4.1  ░ check 0.3  █ commit 0.9  ▒ resume 0.2
                 │
       +11.4 ms  ●  back  guests run again after an outage of 11.4 ms
                 │
                    VM    kind         alive  intact
                    dom0  PrivVM (PV)  yes    yes     212 rounds
                    app1  AppVM (PV)   yes    yes     198 rounds
                    app2  AppVM (PV)   yes    no      checksum chain broken at round 77
                    app3  AppVM (PVH)  yes    yes     201 rounds
                    ✓ a new VM was created

      ✓ success: at most one AppVM was affected, and a new VM was created"
    `);
  });

  it.each([60, 72, 80, 100, 120])('stays within %i columns', (width) => {
    const long = timeline(story, { width, colors: 'color' }).filter((line) => visibleLength(line) > width);
    expect(long).toEqual([]);
  });

  it('says the same with colours as without', () => {
    expect(stripColors(timeline(story, { width: 100, colors: 'color' }).join('\n'))).toBe(told());
  });

  it('counts time from the injection', () => {
    expect(told()).toContain('+3.2 ms  ●  detected');
    expect(told()).toContain('+10.7 ms  ●  resumed');
  });

  it('counts time from the detection where nothing was injected', () => {
    const { injection: _, ...unprovoked } = story;
    const text = timeline(unprovoked, { width: 100, colors: 'plain' }).join('\n');
    expect(text).not.toContain('●  broken');
    expect(text).toContain(' 0  ●  detected');
    expect(text).toContain('+7.5 ms  ●  resumed');
  });

  it('says what stood in the way when a plan was refused', () => {
    const refused = {
      ...recovery,
      result: 'refused' as const,
      plan: { ...recovery.plan, problems: [{ step: 'release-locks', message: 'd7 has no event lock' }] },
    };
    const text = timeline({ ...story, recovery: refused }, { width: 100, colors: 'plain' }).join('\n');
    expect(text).toContain('not recoverable by microreset; the machine stays frozen');
    expect(text).toContain('✗ release-locks: d7 has no event lock');
    expect(text).not.toContain('resumed');
  });

  it('says so when nothing was detected', () => {
    const { recovery: _, outageMs: __, ...silent } = story;
    const unseen = { ...silent, verdict: { kind: 'failure' as const, summary: 'the failure was not detected' } };
    const text = timeline(unseen, { width: 100, colors: 'plain' }).join('\n');
    expect(text).toContain('not detected');
    expect(text).toContain('✗ failure: the failure was not detected');
  });
});
