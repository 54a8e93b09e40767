import { describe, expect, it } from 'vitest';
import { type RunResult, tallyLines, tallyOf } from '../../src/report/tally.js';

const good = (run: number): RunResult => ({
  run,
  verdict: 'success',
  noVmf: true,
  point: 'do_sched_op+0x1',
  latencyMs: run,
});
const results: readonly RunResult[] = [
  ...Array.from({ length: 47 }, (_, i) => good(i + 1)),
  {
    run: 48,
    verdict: 'success',
    noVmf: false,
    point: 'timer_softirq_action+0x20',
    cause: 'app2 stopped',
    latencyMs: 48,
  },
  { run: 49, verdict: 'failure', noVmf: false, point: 'pv_destroy_ldt+0x8', cause: 'PrivVM stopped', latencyMs: 49 },
  { run: 50, verdict: 'failure', noVmf: false, point: 'evtchn_send+0x4' },
];

describe('tally', () => {
  it('counts, and names each failure with its cause', () => {
    expect(tallyOf(results)).toEqual({
      runs: 50,
      success: 48,
      noVmf: 47,
      failures: [
        { run: 49, point: 'pv_destroy_ldt+0x8', cause: 'PrivVM stopped' },
        { run: 50, point: 'evtchn_send+0x4', cause: 'unknown' },
      ],
    });
  });

  it('prints shares with exact intervals, the latency, and what went wrong', () => {
    expect(tallyLines(results, { width: 100, colors: 'plain' }).join('\n')).toMatchInlineSnapshot(`
      "50 runs

                        share  95 % interval
      success  48/50 = 96.0 %  86.3 % – 99.5 %  at most one AppVM affected, a new VM created
      noVMF    47/50 = 94.0 %  83.5 % – 98.7 %  no VM affected

      latency  p50 25.0 ms, p95 46.6 ms, p99 48.5 ms, max 49.0 ms  (49 recoveries)

      what went wrong
        ! run  48  timer_softirq_action+0x20: app2 stopped
        ✗ run  49  pv_destroy_ldt+0x8: PrivVM stopped
        ✗ run  50  evtchn_send+0x4: unknown"
    `);
  });

  it('has nothing to say about shares of no runs', () => {
    expect(tallyLines([], { width: 100, colors: 'plain' }).join('\n')).not.toContain('NaN');
  });
});
