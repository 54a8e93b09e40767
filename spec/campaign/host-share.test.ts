import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { HostShare } from '../../src/campaign/host-share.js';

describe('the share of the host', () => {
  it('is told of a process that wants more than there is, and of none that sleeps', async () => {
    // Both on one processor, so that each has to wait half of its time.
    const busy = [0, 1].map(() => spawn('taskset', ['-c', '0', process.execPath, '-e', 'for (;;);']));
    const idle = spawn('sleep', ['30']);
    try {
      await sleep(500);
      const [first] = busy;
      const share = new HostShare(() => first!.pid!);
      const none = new HostShare(() => idle.pid!);
      await sleep(1500);
      expect(share.waited).toBeGreaterThan(0.25);
      expect(share.slowdown).toBeGreaterThan(1.3);
      expect(share.slowdown).toBeLessThanOrEqual(10);
      expect([none.waited, none.slowdown]).toEqual([0, 1]);
    } finally {
      for (const child of [...busy, idle]) child.kill('SIGKILL');
    }
  });

  it('is nothing of a process that is gone', () => {
    const share = new HostShare(() => 2 ** 22 + 1);
    expect([share.waited, share.slowdown]).toEqual([0, 1]);
  });
});
