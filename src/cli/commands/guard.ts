/** `ninelives guard`: watch a running box, and recover it every time it fails. Ctrl-C detaches; the box runs on. */
import { mkdir } from 'node:fs/promises';
import { EXIT, isNinelivesError } from '../../common/errors.js';
import { Guard, type GuardEvent } from '../../guard/guard.js';
import { findTarget } from '../../guard/target.js';
import { Machine } from '../../machine/machine.js';
import { recoveryLines } from '../../report/timeline.js';
import { boxAddress, RUNNING_BOX_OPTIONS } from '../box.js';
import type { Command, Context } from '../command.js';
import { eventObject } from '../guard-events.js';

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
    const { typed, terminal, signal } = context;
    const address = boxAddress(typed);
    const capsuleDir = typed.text('capsules');
    if (capsuleDir !== undefined) await mkdir(capsuleDir, { recursive: true });
    terminal.step('attaching');
    await using machine = await Machine.attach(address);
    const target = await findTarget(machine, typed.text('profiles'));
    let lost = false;
    const watch = await Guard.attach(target, {
      onEvent: (event) => {
        if (event.kind === 'not-recovered') lost = true;
        tell(event, context);
      },
      ...(capsuleDir === undefined ? {} : { capsuleDir }),
    });
    signal.addEventListener('abort', () => watch.stop(), { once: true });
    try {
      if (!signal.aborted) await watch.run();
    } catch (error) {
      // The machine is gone for good, which was told as an event already.
      if (!(lost && isNinelivesError(error, 'NL_QEMU_EXITED'))) throw error;
    }
    tell({ kind: 'ended', why: lost ? 'the box could not be recovered' : 'detached' }, context);
    return lost ? EXIT.targetFailed : EXIT.ok;
  },
};

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
