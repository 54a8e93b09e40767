/**
 * Hands out the runs of a campaign to workers and collects their records. A worker that dies loses its run and is replaced; a
 * campaign in which nothing but that happens is stopped.
 */
import { NinelivesError } from '../common/errors.js';
import type { Versions } from './folder.js';
import { runName } from './plan.js';
import type { FromWorker } from './protocol.js';
import type { RunRecord } from './record.js';
import { infraRecord, type RunOrder } from './run-record.js';
import type { SpawnWorker, WorkerLink } from './spawn.js';

export type SupervisorEvent =
  | { readonly kind: 'progress'; readonly worker: number; readonly step: boolean; readonly text: string }
  | { readonly kind: 'warning'; readonly worker: number; readonly text: string }
  | { readonly kind: 'ready'; readonly worker: number; readonly versions: Versions }
  | { readonly kind: 'started'; readonly worker: number; readonly order: RunOrder }
  | { readonly kind: 'record'; readonly worker: number; readonly record: RunRecord }
  | { readonly kind: 'worker-lost'; readonly worker: number; readonly why: string };

export interface SupervisorOptions {
  readonly dir: string;
  readonly orders: readonly RunOrder[];
  /** Workers at a time. */
  readonly jobs: number;
  readonly signal: AbortSignal;
  readonly spawn: SpawnWorker;
  /** Called with the versions of each worker's box before it gets its first run. What it throws ends the campaign. */
  readonly checkVersions: (versions: Versions) => void;
  /** Keeps a record; when it returns, the run counts as done. What it throws ends the campaign. */
  readonly keep: (record: RunRecord) => void;
  readonly told: (event: SupervisorEvent) => void;
  /** A run that takes longer is given up, with its worker. */
  readonly runLimitMs?: number;
}

/** Far more than the slowest run: all limits of a campaign file's defaults together, on a busy host. */
const RUN_LIMIT_MS = 600_000;
/** So many runs in a row in which we failed, and nothing else: there is no point in going on. */
const HOPELESS = 5;
/** A worker that is told to end may take this long. */
const END_LIMIT_MS = 10_000;

export type Ending = 'complete' | 'interrupted';

/**
 * Makes all runs. When the signal is aborted, runs in flight are finished and no new ones begin.
 * @throws NL_RUNS_LOST when only failures of our own come, what the first box could not be opened for, and what `keep` throws
 */
export function supervise(options: SupervisorOptions): Promise<Ending> {
  return new Supervisor(options).run();
}

interface Crew {
  readonly number: number;
  link: WorkerLink;
  ready: boolean;
  order: RunOrder | undefined;
  startedAt: string;
  startedMs: number;
  timer: NodeJS.Timeout | undefined;
  ending: boolean;
}

class Supervisor {
  private readonly queue: RunOrder[];
  private readonly crew = new Set<Crew>();
  private everReady: boolean = false;
  private failuresInRow = 0;
  private error: unknown;
  private workers = 0;
  private settle: (() => void) | undefined;

  constructor(private readonly options: SupervisorOptions) {
    this.queue = [...options.orders];
  }

  async run(): Promise<Ending> {
    const { signal, jobs } = this.options;
    if (this.queue.length === 0) return 'complete';
    const finished = new Promise<void>((resolve) => {
      this.settle = resolve;
    });
    const stop = (): void => this.stop();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    else this.hire(Math.min(jobs, this.queue.length));
    if (this.crew.size > 0) await finished;
    signal.removeEventListener('abort', stop);
    if (this.error !== undefined) throw this.error;
    return this.queue.length === 0 && !this.wasDropped ? 'complete' : 'interrupted';
  }

  private wasDropped: boolean = false;

  /** Brings the crew to `size`. The first worker makes the snapshot that the others begin from, so they wait for it. */
  private hire(size: number): void {
    const wanted = this.everReady ? size : Math.min(size, 1);
    while (this.crew.size < wanted && this.error === undefined) this.start();
  }

  private start(): void {
    const member: Crew = {
      number: this.workers++,
      link: this.options.spawn(),
      ready: false,
      order: undefined,
      startedAt: '',
      startedMs: 0,
      timer: undefined,
      ending: false,
    };
    this.crew.add(member);
    member.link.onMessage = (message) => this.guarded(() => this.hear(member, message));
    member.link.onExit = (how) => this.guarded(() => this.lose(member, how));
    member.link.send({ kind: 'open', dir: this.options.dir });
  }

  /** What fails on our side of the channel ends the campaign. */
  private guarded(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.abandon(error);
    }
  }

  private hear(member: Crew, message: FromWorker): void {
    const { told, checkVersions } = this.options;
    switch (message.kind) {
      case 'progress':
        told({ kind: 'progress', worker: member.number, step: message.step, text: message.text });
        break;
      case 'warning':
        told({ kind: 'warning', worker: member.number, text: message.text });
        break;
      case 'ready':
        checkVersions(message.versions);
        member.ready = true;
        this.everReady = true;
        told({ kind: 'ready', worker: member.number, versions: message.versions });
        this.next(member);
        if (!this.options.signal.aborted) this.hire(Math.min(this.options.jobs, this.crew.size + this.queue.length));
        break;
      case 'done':
        this.note(member, message.record);
        this.next(member);
        break;
      case 'failed': {
        const error = new NinelivesError(
          message.code,
          message.message,
          message.fix === undefined ? {} : { fix: message.fix },
        );
        member.ending = true;
        told({ kind: 'worker-lost', worker: member.number, why: message.message });
        // The first box says whether there can be any; later ones may be unlucky.
        if (!this.everReady || ++this.failuresInRow >= HOPELESS) this.abandon(error);
        break;
      }
    }
  }

  private note(member: Crew, record: RunRecord): void {
    clearTimeout(member.timer);
    member.order = undefined;
    this.options.keep(record);
    this.options.told({ kind: 'record', worker: member.number, record });
    this.failuresInRow = record.outcome === 'infra' ? this.failuresInRow + 1 : 0;
    if (this.failuresInRow >= HOPELESS) {
      throw new NinelivesError(
        'NL_RUNS_LOST',
        `we failed in ${HOPELESS} runs in a row, in the last one with ${record.errorCode}: ${record.cause}`,
        { fix: `see to that, then go on: ninelives campaign resume ${this.options.dir}` },
      );
    }
  }

  private next(member: Crew): void {
    const order = this.options.signal.aborted || this.error !== undefined ? undefined : this.queue.shift();
    if (order === undefined) {
      this.dismiss(member);
      return;
    }
    member.order = order;
    member.startedAt = new Date().toISOString();
    member.startedMs = performance.now();
    member.timer = setTimeout(() => member.link.kill(), this.options.runLimitMs ?? RUN_LIMIT_MS);
    this.options.told({ kind: 'started', worker: member.number, order });
    member.link.send({ kind: 'run', order });
  }

  private dismiss(member: Crew): void {
    member.ending = true;
    member.link.send({ kind: 'end' });
    member.timer = setTimeout(() => member.link.kill(), END_LIMIT_MS);
  }

  private lose(member: Crew, how: string): void {
    clearTimeout(member.timer);
    this.crew.delete(member);
    const { order } = member;
    if (!member.ending && this.error === undefined) {
      this.options.told({ kind: 'worker-lost', worker: member.number, why: how });
      const during = order === undefined ? '' : ` in run ${runName(order)}`;
      const error = new NinelivesError('NL_WORKER_LOST', `worker ${member.number} was lost${during}: ${how}`);
      if (order !== undefined) {
        this.note(member, infraRecord(order, error, member.startedAt, performance.now() - member.startedMs));
      } else if (!this.everReady || ++this.failuresInRow >= HOPELESS) {
        this.error = error;
      }
    }
    if (!this.options.signal.aborted && this.everReady) {
      this.guarded(() => this.hire(Math.min(this.options.jobs, this.crew.size + this.queue.length)));
    }
    if (this.crew.size === 0) this.settle?.();
  }

  /** Ctrl-C: runs in flight are finished; a worker that has none, or is not ready yet, ends. */
  private stop(): void {
    for (const member of this.crew) if (member.order === undefined) this.dismiss(member);
    if (this.queue.length > 0) this.wasDropped = true;
    if (this.crew.size === 0) this.settle?.();
  }

  private abandon(error: unknown): void {
    this.error ??= error;
    for (const member of this.crew) {
      if (member.ending) continue;
      clearTimeout(member.timer);
      member.order = undefined;
      this.dismiss(member);
    }
    if (this.crew.size === 0) this.settle?.();
  }
}
