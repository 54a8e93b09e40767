/** `ninelives campaign compare`: is one campaign's recovery better than another's, and could that be chance? */
import {
  type ComparedRate,
  type Comparison,
  compareRecords,
  type RateComparison,
  type Repetition,
} from '../../campaign/compare.js';
import { type Campaign, readCampaign } from '../../campaign/folder.js';
import type { RunRecord } from '../../campaign/record.js';
import type { Rate, Times } from '../../campaign/summary.js';
import { EXIT } from '../../common/errors.js';
import { duration, type Paint } from '../../report/style.js';
import { table } from '../../report/table.js';
import type { Command } from '../command.js';
import { usage } from '../complain.js';

export const campaignCompare: Command = {
  name: 'campaign compare',
  positional: ['<a>', '<b>'],
  summary: 'compare the rates of two campaigns, with interval and p-value; DIR:2 is variant 2 of a campaign',
  options: [],
  examples: ['ninelives campaign compare campaign-results/pv campaign-results/pvh'],
  async run({ typed, json, print, printJson, paint }) {
    const [a = '', b = ''] = typed.positional;
    const comparison = compareRecords(recordsOf(a), recordsOf(b));
    if (json)
      printJson({
        a,
        b,
        rates: comparison.rates,
        repetition: comparison.repetition,
        latencyMs: { a: comparison.a.latencyMs, b: comparison.b.latencyMs },
      });
    else print(lines(comparison, [a, b], paint));
    return EXIT.ok;
  },
};

/** Of a folder, or of one variant of the campaign in a folder, written `DIR:2`. */
function recordsOf(name: string): readonly RunRecord[] {
  const [, dir, variant] = /^(.*):(\d+)$/.exec(name) ?? [];
  if (dir === undefined || variant === undefined) return readCampaign(name).records;
  const campaign: Campaign = readCampaign(dir);
  const index = Number(variant);
  if (campaign.file.variants?.[index] === undefined) {
    const last = (campaign.file.variants?.length ?? 0) - 1;
    throw usage(
      `${dir} has no variant ${index}`,
      last < 0 ? 'it has none at all: leave it out' : `give one from 0 to ${last}`,
    );
  }
  return campaign.records.filter((record) => record.variant === index);
}

const NAMES: Readonly<Record<ComparedRate, string>> = {
  success: 'success',
  noVmf: 'noVMF',
  detected: 'detected',
  sdc: 'silent corruption',
  notManifested: 'not manifested',
};

function lines({ a, b, rates, repetition }: Comparison, names: readonly [string, string], p: Paint): string[] {
  const rows = rates.filter(({ a: x, b: y }) => x.of + y.of > 0).map((rate) => rateRow(rate));
  const columns = [
    { title: '' },
    { title: 'A', align: 'right' as const },
    { title: 'B', align: 'right' as const },
    { title: 'B - A', align: 'right' as const },
    { title: '95 % interval' },
    { title: 'p', align: 'right' as const },
  ];
  return [
    `A  ${names[0]}`,
    `B  ${names[1]}`,
    '',
    ...table(columns, rows, p),
    '',
    `latency  A ${timesText(a.latencyMs)}; B ${timesText(b.latencyMs)}`,
    ...(repetition === null ? [] : [repetitionText(repetition)]),
    p.dim(
      'interval: Newcombe, method 10; p: Fisher, exact, two-sided. Rates of the detected, and of the faults from "detected" on.',
    ),
  ];
}

function rateRow({ name, a, b, difference, p }: RateComparison): string[] {
  const points = (value: number): string => `${value < 0 ? '−' : '+'}${(Math.abs(value) * 100).toFixed(1)}`;
  return [
    NAMES[name],
    share(a),
    share(b),
    difference === null ? '' : `${points(difference.difference)} points`,
    difference === null ? '' : `${points(difference.low)} to ${points(difference.high)}`,
    p === null ? '' : p < 0.0001 ? '< 0.0001' : p.toFixed(4),
  ];
}

const repetitionText = ({ runs, samePoint, sameOutcome }: Repetition): string =>
  `the same experiment twice, ${runs} runs: at the same point ${share(samePoint)}, with the same outcome ${share(sameOutcome)}`;

const share = ({ count, of, share: part }: Rate): string =>
  `${count}/${of}${part === null ? '' : ` = ${(part * 100).toFixed(1)} %`}`;

const timesText = ({ p50, p95 }: Times): string =>
  p50 === null || p95 === null ? 'none' : `p50 ${duration(p50)}, p95 ${duration(p95)}`;
