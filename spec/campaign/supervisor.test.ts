/** The supervisor with workers that are none: each is a function that answers. */
import { describe, expect, it } from 'vitest';
import type { Versions } from '../../src/campaign/folder.js';
import type { FromWorker, ToWorker } from '../../src/campaign/protocol.js';
import type { RunRecord } from '../../src/campaign/record.js';
import type { RunOrder } from '../../src/campaign/run-record.js';
import type { WorkerLink } from '../../src/campaign/spawn.js';
import { type SupervisorEvent, type SupervisorOptions, supervise } from '../../src/campaign/supervisor.js';
import { PLANNED, record } from './records.js';

const VERSIONS: Versions = { ninelives: '0.1.0', xen: '4.17', qemu: '7.2', kernel: 'linux', snapshot: 'abc' };

/** What a worker does with a message; it answers with `tell`, and ends with `exit`. */
type Act = (message: ToWorker, tell: (message: FromWorker) => void, exit: (how: string) => void) => void;

const diligent: Act = (message, tell, exit) => {
  if (message.kind === 'open') tell({ kind: 'ready', versions: VERSIONS });
  if (message.kind === 'run') tell({ kind: 'done', record: record(message.order.run) });
  if (message.kind === 'end') exit('it ended');
};

const ordersOf = (count: number): RunOrder[] => Array.from({ length: count }, (_, run) => ({ run, planned: PLANNED }));

interface Outcome {
  readonly ending: string;
  readonly error: unknown;
  readonly kept: RunRecord[];
  readonly events: SupervisorEvent[];
  readonly spawned: number;
}

async function campaign(
  acts: readonly Act[],
  other: Partial<SupervisorOptions> & { stopAfter?: number } = {},
): Promise<Outcome> {
  const kept: RunRecord[] = [];
  const events: SupervisorEvent[] = [];
  const controller = new AbortController();
  let spawned = 0;
  const spawn = (): WorkerLink => {
    const act = acts[Math.min(spawned++, acts.length - 1)]!;
    let ended = false;
    const exit = (how: string): void => {
      if (ended) return;
      ended = true;
      setImmediate(() => link.onExit(how));
    };
    const link: WorkerLink = {
      pid: 1,
      send: (message) =>
        void setImmediate(() => {
          if (!ended) act(message, (answer) => setImmediate(() => link.onMessage(answer)), exit);
        }),
      onMessage: () => {},
      onExit: () => {},
      kill: () => exit('it was killed by SIGKILL'),
    };
    return link;
  };
  let ending = 'none';
  let error: unknown;
  try {
    ending = await supervise({
      dir: '/nowhere',
      orders: ordersOf(10),
      jobs: 3,
      signal: controller.signal,
      spawn,
      checkVersions: () => {},
      keep: (one) => {
        kept.push(one);
        if (kept.length === other.stopAfter) controller.abort();
      },
      told: (event) => events.push(event),
      ...other,
    });
  } catch (thrown) {
    error = thrown;
  }
  return { ending, error, kept, events, spawned };
}

const runsOf = (records: readonly RunRecord[]): number[] => records.map(({ run }) => run).sort((a, b) => a - b);
const ALL = ordersOf(10).map(({ run }) => run);

describe('a supervisor', () => {
  it('makes every run once, on as many workers as it may have', async () => {
    const { ending, kept, spawned } = await campaign([diligent]);
    expect(ending).toBe('complete');
    expect(runsOf(kept)).toEqual(ALL);
    expect(spawned).toBe(3);
  });

  it('starts the others only when the first has made the snapshot', async () => {
    const { events } = await campaign([diligent]);
    expect(events[0]).toMatchObject({ kind: 'ready', worker: 0 });
  });

  it('has no more workers than runs', async () => {
    const { spawned, kept } = await campaign([diligent], { orders: ordersOf(2) });
    expect([spawned, kept.length]).toEqual([2, 2]);
  });

  it('records the run of a worker that dies as a failure of ours, and replaces the worker', async () => {
    const dying: Act = (message, tell, exit) => {
      if (message.kind === 'run' && message.order.run === 4) exit('it was killed by SIGKILL');
      else diligent(message, tell, exit);
    };
    const { ending, kept, events, spawned } = await campaign([dying], { jobs: 1 });
    expect(ending).toBe('complete');
    expect(runsOf(kept)).toEqual(ALL);
    expect(kept.find(({ run }) => run === 4)).toMatchObject({ outcome: 'infra', errorCode: 'NL_WORKER_LOST' });
    expect(events.filter(({ kind }) => kind === 'worker-lost')).toHaveLength(1);
    expect(spawned).toBe(2);
  });

  it('stops when nothing but failures of ours comes', async () => {
    const dying: Act = (message, tell, exit) => {
      if (message.kind === 'run') exit('it was killed by SIGSEGV');
      else diligent(message, tell, exit);
    };
    const { error, kept } = await campaign([dying], { jobs: 1 });
    expect(error).toMatchObject({ code: 'NL_RUNS_LOST', message: expect.stringContaining('SIGSEGV') as string });
    expect(kept).toHaveLength(5);
  });

  it('ends with the reason when the first box cannot be opened', async () => {
    const unable: Act = (message, tell, exit) => {
      if (message.kind !== 'open') return;
      tell({ kind: 'failed', code: 'NL_QEMU_MISSING', message: 'QEMU cannot be started', fix: 'install it' });
      setImmediate(() => setImmediate(() => exit('it ended with status 0')));
    };
    const { error, kept, spawned } = await campaign([unable]);
    expect(error).toMatchObject({ code: 'NL_QEMU_MISSING', fix: 'install it' });
    expect([kept.length, spawned]).toEqual([0, 1]);
  });

  it('ends with the reason when a worker dies before its box is open', async () => {
    const { error } = await campaign([(_, __, exit) => exit('it ended with status 1')]);
    expect(error).toMatchObject({ code: 'NL_WORKER_LOST' });
  });

  it('finishes the runs in flight after Ctrl-C, and begins no new ones', async () => {
    const { ending, kept, events } = await campaign([diligent], { stopAfter: 4 });
    expect(ending).toBe('interrupted');
    expect(kept.length).toBe(events.filter(({ kind }) => kind === 'started').length);
    expect(kept.length).toBeLessThan(10);
  });

  it('ends the campaign when a record cannot be kept', async () => {
    const { error } = await campaign([diligent], {
      keep: () => {
        throw Object.assign(new Error('disk full'), { code: 'NL_NO_SPACE' });
      },
    });
    expect(error).toMatchObject({ code: 'NL_NO_SPACE' });
  });

  it('ends the campaign when a box has other versions', async () => {
    const { error, kept } = await campaign([diligent], {
      checkVersions: () => {
        throw Object.assign(new Error('other'), { code: 'NL_CAMPAIGN_DIFFERS' });
      },
    });
    expect(error).toMatchObject({ code: 'NL_CAMPAIGN_DIFFERS' });
    expect(kept).toEqual([]);
  });

  it('gives up a run that does not end, with its worker', async () => {
    const stuck: Act = (message, tell, exit) => {
      if (!(message.kind === 'run' && message.order.run === 2)) diligent(message, tell, exit);
    };
    const { ending, kept } = await campaign([stuck], { jobs: 1, runLimitMs: 50 });
    expect(ending).toBe('complete');
    expect(kept.find(({ run }) => run === 2)).toMatchObject({ outcome: 'infra', errorCode: 'NL_WORKER_LOST' });
  });

  it('has nothing to do when all runs are made', async () => {
    expect(await campaign([diligent], { orders: [] })).toMatchObject({ ending: 'complete', spawned: 0 });
  });
});
