/** `ninelives down`: ends a box. */
import { EXIT } from '../../common/errors.js';
import { NAME_OPTION, nameOf } from '../box.js';
import { endBox, requireBox } from '../boxes.js';
import type { Command } from '../command.js';

export const down: Command = {
  name: 'down',
  positional: [],
  summary: 'end a box that "ninelives up" started',
  options: [NAME_OPTION],
  examples: ['ninelives down', 'ninelives down --name big'],
  async run({ typed, terminal, json, print, printJson, paint }) {
    const record = requireBox(nameOf(typed));
    terminal.step(`ending box "${record.name}"`);
    await endBox(record);
    terminal.done();
    if (json) printJson({ name: record.name, ended: true });
    else print([`${paint.green('✓')} box "${record.name}" is down`]);
    return EXIT.ok;
  },
};
