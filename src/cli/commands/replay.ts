/** `ninelives replay`: the plan of a saved failure, computed again without any machine. */
import { createHash } from 'node:crypto';
import { EXIT, NinelivesError } from '../../common/errors.js';
import { loadCapsule } from '../../recover/capsule.js';
import { makePlan } from '../../recover/mechanism.js';
import { microreset } from '../../recover/microreset/index.js';
import { planLines } from '../../report/timeline.js';
import { readEntryFacts } from '../../xen/entry.js';
import type { Command } from '../command.js';
import { planObject } from '../trial-report.js';

const MECHANISMS = new Map([[microreset.name, microreset]]);

export const replay: Command = {
  name: 'replay',
  positional: ['<capsule>'],
  summary: 'compute the plan of a saved failure again, offline, and show it',
  options: [
    {
      name: 'profiles',
      value: 'folder',
      summary: 'folder with layout profiles (default: those that come with ninelives)',
    },
  ],
  examples: ['ninelives replay failure-0001.capsule', 'ninelives replay failure-0001.capsule --json'],
  run({ typed, terminal, json, print, printJson, width, colors, paint }) {
    const path = typed.positional[0] ?? '';
    terminal.step('computing the plan');
    const capsule = loadCapsule(path, typed.text('profiles'));
    const mechanism = MECHANISMS.get(capsule.mechanism);
    if (mechanism === undefined) {
      throw new NinelivesError(
        'NL_CAPSULE_INVALID',
        `${path} is of the mechanism "${capsule.mechanism}", which is not known`,
        {
          fix: 'replay it with the version of ninelives that wrote it',
        },
      );
    }
    const facts = readEntryFacts(capsule.xen);
    const plan = makePlan(mechanism, capsule.xen, facts, { without: new Set(capsule.without) });
    const object = planObject(plan);
    const digest = createHash('sha256').update(JSON.stringify(object.edits)).digest('hex');
    const { failure, note, xen } = capsule;
    if (json) printJson({ failure, note, xen: xen.profile.version, digest, ...object });
    else {
      print([paint.dim(`Xen ${xen.profile.version}${note === '' ? '' : `, ${note}`}`), '']);
      print(planLines(failure, plan, { width, colors }));
      print(['', `plan ${digest.slice(0, 16)}: ${plan.edits.length} edits`]);
    }
    return Promise.resolve(plan.problems.length === 0 ? EXIT.ok : EXIT.targetFailed);
  },
};
