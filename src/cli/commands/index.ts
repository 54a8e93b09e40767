/** All commands, in the order in which the help shows them. */
import type { Command } from '../command.js';
import { campaignCompare } from './campaign-compare.js';
import { campaignExport } from './campaign-export.js';
import { campaignMerge } from './campaign-merge.js';
import { campaignRerun } from './campaign-rerun.js';
import { campaignResume } from './campaign-resume.js';
import { campaignRun } from './campaign-run.js';
import { campaignShow } from './campaign-show.js';
import { campaignStatus } from './campaign-status.js';
import { demo } from './demo.js';
import { doctor } from './doctor.js';
import { down } from './down.js';
import { guard } from './guard.js';
import { inject } from './inject.js';
import { inspect } from './inspect.js';
import { profileMake } from './profile-make.js';
import { replay } from './replay.js';
import { report } from './report.js';
import { status } from './status.js';
import { up } from './up.js';

export const COMMANDS: readonly Command[] = [
  demo,
  up,
  down,
  status,
  inject,
  guard,
  inspect,
  replay,
  campaignRun,
  campaignResume,
  campaignStatus,
  campaignShow,
  campaignRerun,
  campaignCompare,
  campaignExport,
  campaignMerge,
  report,
  doctor,
  profileMake,
];
