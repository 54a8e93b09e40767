/** `ninelives campaign export`: the records for other programs. */
import { writeFileSync } from 'node:fs';
import { toCsv, toJson, toSqlite } from '../../campaign/export.js';
import { readCampaign } from '../../campaign/folder.js';
import { EXIT } from '../../common/errors.js';
import { count } from '../../report/style.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';

export const campaignExport: Command = {
  name: 'campaign export',
  positional: ['<folder>'],
  summary: 'write the records of a campaign for other programs; on stdout without --out',
  options: [
    { name: 'csv', summary: 'as a table, one line a run' },
    { name: 'sqlite', value: 'file', summary: 'as an SQLite database' },
    { name: 'out', value: 'file', summary: 'where to write CSV or JSON' },
  ],
  examples: [
    'ninelives campaign export DIR --csv --out runs.csv',
    'ninelives campaign export DIR --json > runs.json',
    'ninelives campaign export DIR --sqlite runs.db',
  ],
  async run({ typed, json, print, terminal }) {
    const { records } = readCampaign(typed.positional[0]!);
    const database = typed.text('sqlite');
    const chosen = [json, typed.given('csv'), database !== undefined].filter(Boolean).length;
    if (chosen !== 1) throw usage('no single format was chosen', 'give one of --csv, --json, --sqlite FILE');
    const told = (path: string): void => terminal.line(`${count(records.length, 'record')} in ${path}`);
    if (database !== undefined) {
      writeFileSync(database, await toSqlite(records));
      told(database);
      return EXIT.ok;
    }
    const text = json ? toJson(records) : toCsv(records);
    const path = typed.text('out');
    if (path === undefined) print(text.replace(/\n$/, '').split('\n'));
    else {
      writeFileSync(path, text);
      told(path);
    }
    return EXIT.ok;
  },
};
