/** `ninelives campaign rerun`: one run once more, with everything that can be told about it. */
import { join } from 'node:path';
import { readCampaign } from '../../campaign/folder.js';
import { parseRunName, runName } from '../../campaign/plan.js';
import { isSuccess } from '../../campaign/record.js';
import { rerun } from '../../campaign/rerun.js';
import { EXIT } from '../../common/errors.js';
import { timeline } from '../../report/timeline.js';
import { recordLines } from '../campaign-lines.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';
import { isInjected, storyOf } from '../trial-report.js';

export const campaignRerun: Command = {
  name: 'campaign rerun',
  positional: ['<folder>', '<run>'],
  summary: 'make one run of a campaign again, from its snapshot and with its choices, and show its timeline',
  options: [{ name: 'out', value: 'folder', summary: 'for capsule and consoles (default: DIR/reruns/RUN)' }],
  examples: ['ninelives campaign rerun campaign-results/smoke-20261124-183012 17'],
  async run({ typed, json, print, printJson, paint, width, colors, terminal, signal }) {
    const [dir = '', name = ''] = typed.positional;
    const campaign = readCampaign(dir);
    const id = parseRunName(name);
    const variants = campaign.file.variants?.length ?? 0;
    const isThere =
      id !== undefined &&
      id.run < campaign.file.runs &&
      (id.variant === undefined ? variants === 0 : id.variant < variants);
    if (!isThere) {
      const last = campaign.file.runs - 1;
      throw usage(
        `the campaign has no run "${name}"`,
        `give one from 0 to ${variants === 0 ? last : `${last}.${variants - 1}`}`,
      );
    }
    const out = typed.text('out') ?? join(dir, 'reruns', runName(id));
    const before = campaign.records.find((record) => runName(record) === runName(id));
    return rerun(campaign, id, { out, signal, progress: terminal }, ({ record, trial, box }) => {
      terminal.done();
      if (json) printJson({ before: before ?? null, now: record });
      else {
        if (isInjected(trial)) print(['', ...timeline(storyOf(box, trial, campaign.file.seed), { width, colors })]);
        print(['', ...recordLines(record, out, paint, width)]);
        if (before !== undefined)
          print(['', paint.dim('in the campaign it was'), ...recordLines(before, dir, paint, width)]);
      }
      return record.outcome === 'detected' && !isSuccess(record) ? EXIT.targetFailed : EXIT.ok;
    });
  },
};
