/** The first look at all series, and what became of the faults. */
import type { RunRecord } from '../../campaign/record.js';
import { rate, summarizeRecords } from '../../campaign/summary.js';
import { forest } from '../chart/forest.js';
import { stacked } from '../chart/stacked.js';
import type { Block, Section, TableRow } from '../document/document.js';
import { type CampaignInput, faultName, type Series } from './input.js';
import {
  FATE_CLASS,
  FATE_WORDS,
  FAULT_FATES,
  fateLegend,
  fateOf,
  forestRow,
  milliseconds,
  ofText,
  percent,
  rateText,
} from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });

export const withFaults = (series: readonly Series[]): Series[] =>
  series.filter(({ records }) => records.some(isInjected));
const isInjected = ({ outcome }: RunRecord): boolean =>
  outcome === 'detected' || outcome === 'sdc' || outcome === 'not-manifested';

export function glance(campaigns: readonly CampaignInput[], series: readonly Series[]): Section {
  const rows = series.map((one): TableRow => {
    const { rates, detected, runs, latencyMs } = summarizeRecords(one.records);
    return {
      cells: [
        { kind: 'strong', text: one.name },
        faultName(one.fault),
        String(runs),
        String(detected),
        rateText(rates.success),
        rateText(rates.noVmf),
        milliseconds(latencyMs.p50),
        milliseconds(latencyMs.p99),
      ],
    };
  });
  return {
    id: 'glance',
    title: 'At a glance',
    blocks: [
      {
        kind: 'prose',
        text: 'A recovery is a success when at most one AppVM is affected, the PrivVM is well, and a new VM can be created and works; noVMF: no VM is affected at all. Rates are over detected failures. Brackets are exact binomial 95 % intervals (Clopper-Pearson).',
      },
      ...notices(campaigns, series),
      {
        kind: 'table',
        caption: 'Every series of runs',
        columns: [
          { title: 'series' },
          { title: 'fault' },
          right('runs'),
          right('detected'),
          right('success [95 %]'),
          right('noVMF [95 %]'),
          right('latency p50, ms'),
          right('p99, ms'),
        ],
        rows,
      },
      ...goldenBlocks(series),
    ],
  };
}

function notices(campaigns: readonly CampaignInput[], series: readonly Series[]): Block[] {
  const told: Block[] = [];
  for (const { dir, meta, damage, records, planned } of campaigns) {
    if (records.length < planned.length)
      told.push({
        kind: 'notice',
        text: `${meta.name} is not complete: ${records.length} of ${planned.length} runs. Go on with: ninelives campaign resume ${dir}`,
      });
    if (damage.length > 0)
      told.push({
        kind: 'notice',
        text: `The run log of ${meta.name} is damaged: ${damage.length} of its lines cannot be read and do not count.`,
      });
  }
  const ours = series.flatMap(({ records }) => records.filter(({ outcome }) => outcome === 'infra'));
  if (ours.length > 0)
    told.push({
      kind: 'notice',
      text: [
        `In ${ours.length} of ${series.reduce((sum, { records }) => sum + records.length, 0)} runs ninelives itself failed. They count for nothing; see `,
        { kind: 'anchor', text: 'our own errors', to: 'own-errors' },
        '.',
      ],
    });
  return told;
}

function goldenBlocks(series: readonly Series[]): Block[] {
  const rows = series.flatMap((one): TableRow[] => {
    const { golden, falseAlarms, rates } = summarizeRecords(one.records);
    if (golden + falseAlarms === 0) return [];
    return [{ cells: [one.name, String(golden + falseAlarms), String(falseAlarms), rateText(rates.falseAlarms)] }];
  });
  if (rows.length === 0) return [];
  const columns = [{ title: 'series' }, right('runs'), right('false alarms'), right('rate [95 %]')];
  return [{ kind: 'table', caption: 'Golden runs: without a fault, to check the verdict itself', columns, rows }];
}

export function outcomes(all: readonly Series[]): Section {
  const series = withFaults(all);
  if (series.length === 0) return { id: 'outcomes', title: 'What became of the faults', blocks: [nothingInjected] };
  const counts = series.map((one) => {
    const injected = one.records.filter(isInjected);
    return {
      one,
      total: injected.length,
      fates: FAULT_FATES.map((fate) =>
        rate(injected.filter((record) => fateOf(record) === fate).length, injected.length),
      ),
      notReached: one.records.filter(({ outcome }) => outcome === 'not-reached').length,
    };
  });
  return {
    id: 'outcomes',
    title: 'What became of the faults',
    blocks: [
      {
        kind: 'figure',
        id: 'outcomes-stacked',
        caption: 'Shares of all injected faults',
        legend: fateLegend,
        draw: (canvas) =>
          stacked(canvas, {
            title: 'What became of the injected faults, by series',
            description: counts
              .map(
                ({ one, fates }) =>
                  `${one.name}: ${fates.map((fate, i) => `${FATE_WORDS[FAULT_FATES[i]!]} ${rateText(fate)}`).join(', ')}`,
              )
              .join('. '),
            axisTitle: 'share of injected faults',
            format: (value) => `${value} %`,
            max: 100,
            rows: counts.map(({ one, total, fates }) => ({
              name: one.name,
              figure: `${total} faults`,
              parts: fates.map((fate, index) => ({
                value: (fate.share ?? 0) * 100,
                class: FATE_CLASS[FAULT_FATES[index]!],
                text: fate.share === null ? '' : percent(fate.share),
              })),
            })),
          }),
      },
      {
        kind: 'figure',
        id: 'outcomes-intervals',
        caption: 'The same with exact 95 % intervals',
        legend: [],
        draw: (canvas) =>
          forest(canvas, {
            title: 'What became of the injected faults, with exact 95 % intervals',
            description: 'The figures are in the table below.',
            axisTitle: 'share of injected faults, with exact 95 % interval',
            domain: [0, 1],
            mark: 'bar',
            groups: counts.map(({ one, total, fates }) => ({
              title: `${one.name}: ${total} faults`,
              rows: fates.map((fate, index) =>
                forestRow(FATE_WORDS[FAULT_FATES[index]!], fate, FATE_CLASS[FAULT_FATES[index]!]),
              ),
            })),
          }),
      },
      {
        kind: 'table',
        caption: 'Faults by what became of them',
        folded: true,
        columns: [{ title: 'series' }, { title: 'what became of it' }, right('faults'), right('share [95 %]')],
        rows: counts.flatMap(({ one, fates, notReached }) => [
          ...fates.map((fate, index) => ({
            cells: [one.name, FATE_WORDS[FAULT_FATES[index]!], ofText(fate), rateText(fate)],
          })),
          ...(notReached === 0
            ? []
            : [{ cells: [one.name, 'not injected: the point was not reached', String(notReached), '–'] }]),
        ]),
      },
    ],
  };
}

export const nothingInjected: Block = { kind: 'prose', text: 'No fault was injected in these campaigns.' };
