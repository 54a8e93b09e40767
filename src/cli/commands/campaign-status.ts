/** `ninelives campaign status`: how far a campaign is and what it came to, while it runs or afterwards. */
import { readCampaign } from '../../campaign/folder.js';
import { EXIT } from '../../common/errors.js';
import { statusLines, statusObject } from '../campaign-lines.js';
import type { Command } from '../command.js';

export const campaignStatus: Command = {
  name: 'campaign status',
  positional: ['<folder>'],
  summary: 'show how far a campaign is, its rates with their intervals, and its times',
  options: [],
  examples: ['ninelives campaign status campaign-results/smoke-20261124-183012 --json'],
  async run({ typed, json, print, printJson, paint }) {
    const campaign = readCampaign(typed.positional[0]!);
    if (json) printJson(statusObject(campaign));
    else print(statusLines(campaign, paint));
    return EXIT.ok;
  },
};
