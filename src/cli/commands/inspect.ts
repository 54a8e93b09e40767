/** `ninelives inspect`: what a Xen is or was doing, of a live box that is frozen for a moment or of a capsule. */
import { EXIT } from '../../common/errors.js';
import { findTarget } from '../../guard/target.js';
import { Machine } from '../../machine/machine.js';
import { loadCapsule } from '../../recover/capsule.js';
import { inspectXen } from '../../report/inspection.js';
import { inspectionLines } from '../../report/inspection-lines.js';
import { duration } from '../../report/style.js';
import { readEntryFacts } from '../../xen/entry.js';
import { boxAddress, RUNNING_BOX_OPTIONS } from '../box.js';
import type { Command } from '../command.js';
import { parseFrames } from '../options.js';

export const inspect: Command = {
  name: 'inspect',
  positional: ['[capsule]'],
  summary: 'show domains, vCPUs, CPUs with backtraces, held locks, timers and vectors in service',
  options: [
    ...RUNNING_BOX_OPTIONS,
    { name: 'frames', value: 'n', summary: 'lines of backtrace for each CPU (default 8)' },
  ],
  examples: [
    'ninelives inspect',
    'ninelives inspect failure-0001.capsule',
    'ninelives inspect --qmp /run/box/qmp.sock --json',
  ],
  async run({ typed, terminal, json, print, printJson, width, colors, paint }) {
    const frames = parseFrames(typed.text('frames') ?? '8');
    const path = typed.positional[0];
    if (path !== undefined) {
      const { xen } = loadCapsule(path, typed.text('profiles'));
      const inspection = inspectXen(xen, readEntryFacts(xen));
      if (json) printJson(inspection);
      else print(inspectionLines(inspection, { width, colors, frames }));
      return EXIT.ok;
    }
    terminal.step('looking at the box');
    const startedMs = performance.now();
    await using machine = await Machine.attach(boxAddress(typed));
    const target = await findTarget(machine, typed.text('profiles'));
    const inspection = inspectXen(target.xen, target.facts);
    await machine.detach();
    const frozenMs = performance.now() - startedMs;
    if (json) printJson(inspection);
    else {
      print(inspectionLines(inspection, { width, colors, frames }));
      print(['', paint.dim(`the box stood still for ${duration(frozenMs)}`)]);
    }
    return EXIT.ok;
  },
};
