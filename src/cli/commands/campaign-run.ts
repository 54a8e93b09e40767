/** `ninelives campaign run`: an experiment of many runs, from a file. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beginCampaign } from '../../campaign/campaign.js';
import { parseShard } from '../../campaign/plan.js';
import { readCampaignFile } from '../../campaign/read-file.js';
import { JOBS_OPTION, parseJobs, runAndShow } from '../campaign-watch.js';
import type { Command } from '../command.js';
import { parseRuns, parseSeed } from '../options.js';

export const campaignRun: Command = {
  name: 'campaign run',
  positional: ['<file>'],
  summary: 'make the runs of a campaign file, and keep a record of each',
  options: [
    { name: 'runs', value: 'n', summary: 'number of runs, instead of that of the file' },
    { name: 'seed', value: 'n', summary: 'seed of all choices, instead of that of the file' },
    { name: 'out', value: 'folder', summary: 'where to keep it (default campaign-results/NAME-DATE)' },
    JOBS_OPTION,
    { name: 'shard', value: 'i/n', summary: 'make only every n-th run, the i-th part; see "campaign merge"' },
  ],
  examples: [
    'ninelives campaign run campaigns/smoke.yaml',
    'ninelives campaign run campaigns/nilihype-register-3appvm.yaml --runs 400 --jobs 2',
  ],
  async run(context) {
    const { typed } = context;
    const path = typed.positional[0]!;
    const text = readFileSync(path, 'utf8');
    const [runs, seed, shard] = [typed.text('runs'), typed.text('seed'), typed.text('shard')];
    const jobs = parseJobs(typed.text('jobs'));
    const overrides = {
      ...(runs === undefined ? {} : { runs: parseRuns(runs) }),
      ...(seed === undefined ? {} : { seed: parseSeed(seed) }),
      ...(shard === undefined ? {} : { shard: parseShard(shard) }),
    };
    const dir = typed.text('out') ?? defaultFolder(readCampaignFile(text, path).name, new Date());
    beginCampaign(text, path, dir, overrides, jobs);
    return runAndShow(dir, { jobs, versions: 'same' }, context);
  },
};

/** `campaign-results/smoke-20261124-183012`, by the local clock. */
function defaultFolder(name: string, now: Date): string {
  const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000).toISOString();
  const [date = '', time = ''] = local.slice(0, 19).split('T');
  return join('campaign-results', `${name}-${date.replaceAll('-', '')}-${time.replaceAll(':', '')}`);
}
