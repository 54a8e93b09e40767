import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { askGuard, guardSocketPath, listenForInjections } from '../../src/cli/guard-socket.js';

const QMP = `/nowhere/${process.pid}/qmp.sock`;
const plan = (seed: number) => ({ fault: 'failstop', faultChoice: {}, trigger: 'timer', triggerChoice: { seed } });
const point = { cpu: 2, vcpu: 'd1v0', at: 'do_sched_op+0x1', backtrace: ['do_sched_op+0x1'], steps: 7 };
const done = { point, what: 'program counter set to 0' };

describe('asking a guard to inject', () => {
  it('finds no guard where none listens', async () => {
    expect(await askGuard(QMP, plan(1))).toBeUndefined();
  });

  it('hands over the plan and hands back what was done', async () => {
    using _ = await listenForInjections(QMP, ({ triggerChoice }) =>
      Promise.resolve({ ...done, what: `seed ${String(triggerChoice.seed)}` }),
    );
    expect(await askGuard(QMP, plan(42))).toEqual({ ...done, what: 'seed 42' });
    expect(await askGuard(QMP, plan(43))).toEqual({ ...done, what: 'seed 43' });
  });

  it('says why the guard could not', async () => {
    using _ = await listenForInjections(QMP, () => Promise.reject(new Error('the box is being recovered')));
    await expect(askGuard(QMP, plan(1))).rejects.toMatchObject({
      code: 'NL_STUB_BUSY',
      message: expect.stringContaining('being recovered'),
    });
  });

  it('leaves no socket behind', async () => {
    (await listenForInjections(QMP, () => Promise.resolve(done)))[Symbol.dispose]();
    expect(existsSync(guardSocketPath(QMP))).toBe(false);
    expect(await askGuard(QMP, plan(1))).toBeUndefined();
  });

  it('takes the place of a socket that a killed guard left', async () => {
    const first = await listenForInjections(QMP, () => Promise.reject(new Error('old')));
    using _ = await listenForInjections(QMP, () => Promise.resolve(done));
    expect(await askGuard(QMP, plan(1))).toEqual(done);
    first[Symbol.dispose]();
  });
});
