/** `ninelives campaign show`: the runs that did not go well, or everything about one of them. */
import { type Campaign, readCampaign } from '../../campaign/folder.js';
import { parseRunName, runName } from '../../campaign/plan.js';
import type { RunRecord } from '../../campaign/record.js';
import { isNoteworthy } from '../../campaign/run-record.js';
import { EXIT } from '../../common/errors.js';
import { failureLines, recordLines, runLine } from '../campaign-lines.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';

export const campaignShow: Command = {
  name: 'campaign show',
  positional: ['<folder>', '[run]'],
  summary: 'show the runs that did not go well, or everything about one run',
  options: [{ name: 'all', summary: 'show one line for every run' }],
  examples: ['ninelives campaign show DIR', 'ninelives campaign show DIR 17', 'ninelives campaign show DIR 17 --json'],
  async run({ typed, json, print, printJson, paint, width }) {
    const [dir = '', name] = typed.positional;
    const campaign = readCampaign(dir);
    if (name !== undefined) {
      const record = recordOf(campaign, name);
      if (json) printJson(record);
      else print(recordLines(record, dir, paint, width));
      return EXIT.ok;
    }
    const all = typed.given('all');
    const records = all ? campaign.records : campaign.records.filter(isNoteworthy);
    if (json) printJson({ name: campaign.meta.name, runs: records });
    else if (records.length === 0) print([`nothing went wrong in ${campaign.records.length} runs`]);
    else print(all ? records.map((record) => runLine(record, paint)) : failureLines(records, paint, width));
    return EXIT.ok;
  },
};

/** @throws NL_USAGE */
export function recordOf({ records, planned }: Campaign, name: string): RunRecord {
  const id = parseRunName(name);
  const record = records.find((one) => id !== undefined && runName(one) === runName(id));
  if (record !== undefined) return record;
  const first = planned[0] === undefined ? '0' : runName(planned[0]);
  const last = planned.at(-1);
  throw usage(
    `there is no record of run "${name}"`,
    `give the number of one that was made, from ${first} to ${last === undefined ? '0' : runName(last)}`,
  );
}
