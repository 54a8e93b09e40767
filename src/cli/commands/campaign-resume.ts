/** `ninelives campaign resume`: make the runs that a campaign still lacks. */
import { readCampaign } from '../../campaign/folder.js';
import { JOBS_OPTION, parseJobs, runAndShow } from '../campaign-watch.js';
import type { Command } from '../command.js';

export const campaignResume: Command = {
  name: 'campaign resume',
  positional: ['<folder>'],
  summary: 'go on with a campaign that was interrupted; runs in which we failed are made again',
  options: [
    JOBS_OPTION,
    {
      name: 'accept-other-versions',
      summary: 'go on with another ninelives, Xen, QEMU or Linux than it was begun with',
    },
  ],
  examples: ['ninelives campaign resume campaign-results/smoke-20261124-183012'],
  async run(context) {
    const { typed } = context;
    const dir = typed.positional[0]!;
    const { meta } = readCampaign(dir);
    const jobs = typed.text('jobs') === undefined ? meta.jobs : parseJobs(typed.text('jobs'));
    return runAndShow(dir, { jobs, versions: typed.given('accept-other-versions') ? 'any' : 'same' }, context);
  },
};
