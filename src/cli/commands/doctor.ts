/** `ninelives doctor`: what of this machine and box is fit, what is not, and what to do. */
import { EXIT } from '../../common/errors.js';
import { type CheckGroup, checkup } from '../../report/checkup.js';
import { installPrograms, TEST_PROGRAMS } from '../../testbed/packages.js';
import { cacheFolder } from '../../testbed/paths.js';
import { boxAddress, nameOf, RUNNING_BOX_OPTIONS } from '../box.js';
import { checkBox } from '../box-checks.js';
import { findBox } from '../boxes.js';
import type { Command } from '../command.js';
import { checkHost } from '../host-checks.js';
import { parseMemory } from '../options.js';

export const doctor: Command = {
  name: 'doctor',
  positional: [],
  summary: 'check what of this machine and box is fit, and say what to do about the rest',
  options: [
    { name: 'memory', value: 'size', summary: 'memory of the box to check for (default 2G)' },
    { name: 'install', summary: 'install the Debian packages that are missing (as root or with sudo)' },
    { name: 'tests', summary: 'with --install: also what only the tests need (Chromium)' },
    ...RUNNING_BOX_OPTIONS,
  ],
  examples: ['ninelives doctor', 'ninelives doctor --memory 8G', 'ninelives doctor --qmp /run/box/qmp.sock'],
  async run({ typed, terminal, json, print, printJson, width, colors }) {
    const memoryMib = parseMemory(typed.text('memory') ?? '2G');
    if (typed.given('install')) await installPrograms(terminal);
    if (typed.given('install') && typed.given('tests')) await installPrograms(terminal, undefined, TEST_PROGRAMS);
    terminal.step('checking this machine');
    const profiles = typed.text('profiles');
    const groups: CheckGroup[] = [
      { title: 'this machine', checks: await checkHost({ memoryMib, cacheFolder: cacheFolder(), profiles }) },
    ];
    if (typed.text('qmp') !== undefined || findBox(nameOf(typed)) !== undefined || typed.text('name') !== undefined) {
      terminal.step('checking the box');
      groups.push({ title: 'the box', checks: await checkBox(boxAddress(typed), profiles) });
    }
    const fit = groups.every((group) => group.checks.every((check) => check.state !== 'failed'));
    if (json) printJson({ fit, groups });
    else print(checkup(groups, width, colors));
    return fit ? EXIT.ok : EXIT.environment;
  },
};
