/** `ninelives doctor`: what of this machine is fit, what is not, and what to do. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { EXIT } from '../../common/errors.js';
import { checkup } from '../../report/checkup.js';
import type { Command } from '../command.js';
import { checkHost } from '../host-checks.js';
import { parseMemory } from '../options.js';

export const doctor: Command = {
  name: 'doctor',
  positional: [],
  summary: 'check what of this machine is fit, and say what to do about the rest',
  options: [{ name: 'memory', value: 'size', summary: 'memory of the box to check for (default 2G)' }],
  examples: ['ninelives doctor', 'ninelives doctor --memory 8G'],
  async run({ typed, terminal, json, print, printJson, width, colors }) {
    const memoryMib = parseMemory(typed.text('memory') ?? '2G');
    terminal.step('checking this machine');
    const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ninelives');
    const groups = [{ title: 'this machine', checks: await checkHost(memoryMib, cache) }];
    const fit = groups.every((group) => group.checks.every((check) => check.state !== 'failed'));
    if (json) printJson({ fit, checks: groups.flatMap((group) => group.checks) });
    else print(checkup(groups, width, colors));
    return fit ? EXIT.ok : EXIT.environment;
  },
};
