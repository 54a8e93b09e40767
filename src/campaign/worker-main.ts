/**
 * A worker of a campaign: a process that owns one box and makes run after run on it. It is told what to do by the supervisor that
 * started it, and ends with it: when the channel closes, and by the kernel's hand in any case (see `spawn.ts`). Its QEMU ends with it
 * in the same way.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import type { Progress } from '../common/progress.js';
import { findTarget, type Target } from '../guard/target.js';
import { type Box, openBox } from '../testbed/box.js';
import { ownVersion } from '../testbed/paths.js';
import { ChainOracle } from '../workload/chain.js';
import { readCampaign, type Versions } from './folder.js';
import type { FromWorker, ToWorker } from './protocol.js';
import { runOnce } from './run.js';
import { infraRecord, type RunOrder } from './run-record.js';
import { boxSpecOf } from './setup.js';

const ending = new AbortController();
const tell = (message: FromWorker): void => void process.send?.(message);
const progress: Progress = {
  step: (text) => tell({ kind: 'progress', step: true, text }),
  detail: (text) => tell({ kind: 'progress', step: false, text }),
};

class Worker {
  private readonly file;
  private readonly oracle = new ChainOracle();
  private box: Box | undefined;
  private target: Target | undefined;
  private warm = false;

  constructor(private readonly dir: string) {
    this.file = readCampaign(dir).file;
  }

  async open(): Promise<Versions> {
    const box = await openBox(boxSpecOf(this.file), progress, { signal: ending.signal });
    this.box = box;
    await box.machine.freeze();
    this.target = await findTarget(box.machine);
    return {
      ninelives: ownVersion(),
      xen: box.files.xenVersion,
      qemu: box.machine.qmp.version.package || `${box.machine.qmp.version.major}.${box.machine.qmp.version.minor}`,
      kernel: basename(box.files.kernel),
      snapshot: createHash('sha256')
        .update(readFileSync(join(box.snapshotDir, 'devices')))
        .digest('hex')
        .slice(0, 16),
    };
  }

  async run(order: RunOrder): Promise<void> {
    const startedAt = new Date().toISOString();
    const begin = performance.now();
    try {
      // After a failure of ours the box is opened anew: nobody knows what is left of it.
      if (this.box === undefined) await this.open();
      const { file, dir, oracle } = this;
      const warn = (text: string): void => tell({ kind: 'warning', text });
      const bench = { box: this.box!, target: this.target!, oracle, file, dir, signal: ending.signal, warn };
      const { record } = await runOnce(bench, order, this.warm);
      this.warm = true;
      tell({ kind: 'done', record });
    } catch (error) {
      if (ending.signal.aborted) return;
      const box = this.box;
      this.box = undefined;
      await box?.stop().catch(() => {}); // The first error is the one to tell.
      tell({ kind: 'done', record: infraRecord(order, error, startedAt, performance.now() - begin) });
    }
  }

  async end(): Promise<void> {
    await this.box?.stop().catch(() => {});
  }
}

let worker: Worker | undefined;
/** One thing after the other. */
let last: Promise<void> = Promise.resolve();

async function open(dir: string): Promise<void> {
  try {
    worker = new Worker(dir);
    tell({ kind: 'ready', versions: await worker.open() });
  } catch (error) {
    const { code, message, fix } = isNinelivesError(error)
      ? error
      : new NinelivesError('NL_INTERNAL', error instanceof Error ? (error.stack ?? error.message) : String(error));
    tell({ kind: 'failed', code, message, fix });
    await end();
  }
}

async function end(): Promise<void> {
  ending.abort(new NinelivesError('NL_INTERRUPTED', 'the campaign ends'));
  await worker?.end();
  process.disconnect?.();
  process.exit(0);
}

function obey(message: ToWorker): void {
  switch (message.kind) {
    case 'open':
      last = open(message.dir);
      break;
    case 'run':
      last = last.then(() => worker?.run(message.order));
      break;
    case 'end':
      // Not in turn: a run in flight is dropped.
      void end();
      break;
  }
}

// Ctrl-C is the supervisor's to hear: it has the run in flight finished.
for (const name of ['SIGINT', 'SIGHUP'] as const) process.on(name, () => {});
process.on('message', obey);
// The supervisor is gone, however it went. `exit` runs what removes the box's folder; the kernel ends QEMU.
process.on('disconnect', () => process.exit(0));
