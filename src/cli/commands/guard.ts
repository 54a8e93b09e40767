/** `ninelives guard`: watch a running box, and recover it every time it fails. Ctrl-C detaches; the box runs on. */
import { mkdir } from 'node:fs/promises';
import { EXIT, isNinelivesError } from '../../common/errors.js';
import { Guard, type GuardEvent } from '../../guard/guard.js';
import { findTarget, type Target } from '../../guard/target.js';
import { injectPlanned, type Planned } from '../../inject/index.js';
import { Machine } from '../../machine/machine.js';
import { recoveryLines } from '../../report/timeline.js';
import { boxAddress, RUNNING_BOX_OPTIONS } from '../box.js';
import type { Command, Context } from '../command.js';
import { eventObject } from '../guard-events.js';
import { type Done, listenForInjections } from '../guard-socket.js';

export const guard: Command = {
  name: 'guard',
  positional: [],
  summary: 'watch a running box and recover it every time it fails; Ctrl-C detaches',
  options: [
    ...RUNNING_BOX_OPTIONS,
    { name: 'capsules', value: 'folder', summary: 'keep a capsule of each failure there, for "ninelives replay"' },
  ],
  examples: ['ninelives guard', 'ninelives guard --qmp /run/box/qmp.sock --json'],
  async run(context) {
    const { typed, terminal } = context;
    const address = boxAddress(typed);
    const capsuleDir = typed.text('capsules');
    if (capsuleDir !== undefined) await mkdir(capsuleDir, { recursive: true });
    terminal.step('attaching');
    await using machine = await Machine.attach(address);
    const target = await findTarget(machine, typed.text('profiles'));
    const watcher = new Watcher(machine, target, capsuleDir, context);
    using _ = await listenForInjections(address.qmpPath, (planned) => watcher.inject(planned));
    const lost = await watcher.run();
    tell({ kind: 'ended', why: lost ? 'the box could not be recovered' : 'detached' }, context);
    return lost ? EXIT.targetFailed : EXIT.ok;
  },
};

/** Guards, and now and then injects on request: one guard ends, the fault goes in, and the next guard meets it. */
class Watcher {
  private guard: Guard | undefined;
  private request: { planned: Planned; done: (done: Promise<Done>) => void } | undefined;
  private lost = false;
  private watched = false;

  constructor(
    private readonly machine: Machine,
    private readonly target: Target,
    private readonly capsuleDir: string | undefined,
    private readonly context: Context,
  ) {}

  /** Breaks the box that is guarded, between two looks of its guard. */
  inject(planned: Planned): Promise<Done> {
    if (this.request !== undefined) return Promise.reject(new Error('another injection is under way'));
    return new Promise((resolve) => {
      this.request = { planned, done: resolve };
      this.guard?.stop();
    });
  }

  /** Guards until Ctrl-C or until the box cannot be recovered. @returns whether it could not */
  async run(): Promise<boolean> {
    const { signal } = this.context;
    const stop = (): void => this.guard?.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      while (!signal.aborted && !this.lost) {
        await this.machine.freeze();
        this.guard = await this.attach();
        if (this.request !== undefined) await this.serve();
        if (!signal.aborted) await this.guard.run();
      }
    } catch (error) {
      // The machine is gone for good, which was told as an event already.
      if (!(this.lost && isNinelivesError(error, 'NL_QEMU_EXITED'))) throw error;
    } finally {
      signal.removeEventListener('abort', stop);
    }
    return this.lost;
  }

  private attach(): Promise<Guard> {
    return Guard.attach(this.target, {
      onEvent: (event) => {
        if (event.kind === 'not-recovered') this.lost = true;
        if (event.kind === 'watching' && this.watched) return;
        this.watched ||= event.kind === 'watching';
        tell(event, this.context);
      },
      ...(this.capsuleDir === undefined ? {} : { capsuleDir: this.capsuleDir }),
    });
  }

  private async serve(): Promise<void> {
    const { request } = this;
    if (request === undefined) return;
    this.request = undefined;
    const injection = injectPlanned(this.target, request.planned, this.context.signal).then(({ point, applied }) => ({
      point,
      what: applied.what,
    }));
    request.done(injection);
    // Whoever asked is told of an injection that fails; the guard goes on.
    await injection.catch(() => {});
  }
}

function tell(event: GuardEvent, context: Context): void {
  const { json, printJson, print, paint, terminal, width, colors } = context;
  if (json) {
    printJson(eventObject(event, new Date()));
    if (event.kind === 'watching') terminal.done();
    return;
  }
  const time = paint.dim(new Date().toTimeString().slice(0, 8));
  switch (event.kind) {
    case 'watching':
      print([`${time} watching Xen ${event.xen} on ${event.cpus} CPUs; Ctrl-C detaches`]);
      break;
    case 'failure':
      print([`${time} ${paint.red('failure:')} ${event.failure.summary}`]);
      break;
    case 'recovered':
      print([`${time} ${paint.green('recovered')}`, ...recoveryLines(event.recovery, { width, colors }), '']);
      break;
    case 'not-recovered':
      print([`${time} ${paint.red('not recovered:')} ${event.why}`]);
      if (event.recovery !== undefined) print(recoveryLines(event.recovery, { width, colors }));
      break;
    case 'false-alarm':
      print([`${time} ${paint.dim(`CPU ${event.cpu} looked hung for ${Math.round(event.stalledMs)} ms and was not`)}`]);
      break;
    case 'ended':
      print([`${time} ${event.why}`]);
      break;
  }
}
