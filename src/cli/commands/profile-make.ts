/** `ninelives profile make`: a layout profile from a Xen with debug information. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { EXIT, NinelivesError } from '../../common/errors.js';
import { makeProfile } from '../../layout/make.js';
import type { Command } from '../command.js';

export const profileMake: Command = {
  name: 'profile make',
  positional: ['<xen-syms>'],
  summary: 'make the layout profile of a Xen from its xen-syms with debug information',
  options: [
    {
      name: 'symbols-from',
      value: 'file',
      summary: 'xen-syms of the Xen that runs, where that one has no debug information',
    },
    { name: 'source', value: 'text', summary: 'where <xen-syms> comes from, for the reader of the profile' },
    { name: 'validate', summary: 'where the code differs, show that the layouts hold, and record how' },
    { name: 'out', value: 'folder', summary: 'folder for the profile (default profiles)' },
  ],
  examples: [
    'ninelives profile make xen/xen-syms',
    'ninelives profile make xen/xen-syms --symbols-from /usr/lib/debug/xen-syms-4.17-amd64',
  ],
  async run({ typed, terminal, paint, json, print, printJson }) {
    const symbolsFrom = typed.text('symbols-from');
    const source = typed.text('source');
    const folder = resolve(typed.text('out') ?? 'profiles');
    const file = requireFile(typed.positional[0] ?? '');
    if (symbolsFrom !== undefined) requireFile(symbolsFrom);

    terminal.step('reading symbols, types and code');
    const made = makeProfile(file, {
      ...(symbolsFrom === undefined ? {} : { symbolsFrom }),
      ...(source === undefined ? {} : { source }),
      onDifferentCode: typed.given('validate') ? 'validate' : 'refuse',
    });
    await mkdir(folder, { recursive: true });
    const path = join(folder, `${made.buildId}.json`);
    await writeFile(path, made.json);

    const { buildId, version, text } = made;
    if (json) printJson({ path, buildId, version, text });
    else {
      print([
        `${paint.green('✓')} ${path}`,
        `  Xen ${version}, build-id ${buildId}`,
        `  ${text.same} of ${text.functions} functions have the same code in both files`,
        ...text.different.map((name) => `  ${paint.yellow('differs:')} ${name}`),
      ]);
    }
    return EXIT.ok;
  },
};

function requireFile(path: string): string {
  if (existsSync(path)) return path;
  throw new NinelivesError('NL_USAGE', `${path} does not exist`, { fix: 'give the xen-syms of a Xen build' });
}
