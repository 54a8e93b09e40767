/** `ninelives campaign merge`: parts of a campaign that were run in different places, as one. */
import { mergeCampaigns } from '../../campaign/merge.js';
import { EXIT } from '../../common/errors.js';
import { statusLines, statusObject } from '../campaign-lines.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';

export const campaignMerge: Command = {
  name: 'campaign merge',
  positional: ['<folder>', '...'],
  summary: 'make one campaign of the parts that were run with --shard',
  options: [{ name: 'out', value: 'folder', summary: 'folder of the whole' }],
  examples: ['ninelives campaign merge part-1 part-2 part-3 --out whole'],
  async run({ typed, json, print, printJson, paint }) {
    const out = typed.text('out');
    if (out === undefined) throw usage('--out is missing', 'give the folder of the whole: --out FOLDER');
    const campaign = mergeCampaigns(typed.positional, out);
    if (json) printJson(statusObject(campaign));
    else print(statusLines(campaign, paint));
    return EXIT.ok;
  },
};
