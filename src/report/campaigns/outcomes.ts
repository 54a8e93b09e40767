/** What became of the faults, and our rates beside the published ones. */
import type { RunRecord } from '../../campaign/record.js';
import { type CampaignSummary, type Rate, rate, summarizeRecords } from '../../campaign/summary.js';
import { forest, rateDomain } from '../chart/forest.js';
import { stacked } from '../chart/stacked.js';
import type { Block, Section, TableRow } from '../document/document.js';
import {
  detectedFailures,
  INCREMENT_FAULTS,
  PUBLISHED_FAULT_TYPES,
  PUBLISHED_INCREMENTS,
  PUBLISHED_SETUP,
  PUBLISHED_SOURCE,
  publishedFaultType,
} from '../published.js';
import { type CampaignInput, faultName, type Series, setupText } from './input.js';
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
  publishedRate,
  rateText,
} from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });

const withFaults = (series: readonly Series[]): Series[] => series.filter(({ records }) => records.some(isInjected));
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

const nothingInjected: Block = { kind: 'prose', text: 'No fault was injected in these campaigns.' };

export function published(all: readonly Series[]): Section {
  const series = withFaults(all);
  const comparable = PUBLISHED_FAULT_TYPES.map((type) => ({
    type,
    ours: series
      .filter(({ fault }) => fault === type.fault)
      .map((one) => ({ one, summary: summarizeRecords(one.records) })),
  })).filter(({ ours }) => ours.length > 0);
  const beyond = series
    .filter(({ fault }) => publishedFaultType(fault) === undefined)
    .map((one) => ({ one, summary: summarizeRecords(one.records) }));
  const groups = (of: 'success' | 'noVmf') => [
    ...comparable.map(({ type, ours }) => ({
      title: type.name,
      rows: [
        ...ours.map(({ one, summary }) => forestRow(one.name, summary.rates[of], 'ours')),
        ...(['NiLiHype', 'ReHype'] as const).map((system) =>
          forestRow(
            `${system}, published`,
            publishedRate(type.systems[system][of], detectedFailures(type)),
            system.toLowerCase(),
          ),
        ),
      ],
    })),
    ...(beyond.length === 0
      ? []
      : [
          {
            title: 'Other faults: nothing is published',
            rows: beyond.map(({ one, summary }) => forestRow(one.name, summary.rates[of], 'ours')),
          },
        ]),
  ];
  const figure = (of: 'success' | 'noVmf', title: string): Block => {
    const shown = groups(of);
    const domain = rateDomain(shown.flatMap(({ rows }) => rows.map(({ low }) => low)));
    return {
      kind: 'figure',
      id: `published-${of}`,
      caption: title,
      legend: [
        { text: 'ours', class: 'ours', shape: 'dot' },
        { text: 'NiLiHype', class: 'nilihype', shape: 'dot' },
        { text: 'ReHype', class: 'rehype', shape: 'dot' },
      ],
      draw: (canvas) =>
        forest(canvas, {
          title,
          description: shown
            .map(({ title: name, rows }) => `${name}: ${rows.map((row) => `${row.name} ${row.figure}`).join(', ')}`)
            .join('. '),
          axisTitle: 'share of detected failures, with exact 95 % interval',
          domain,
          mark: 'dot',
          groups: shown,
        }),
    };
  };
  if (series.length === 0) return { id: 'published', title: 'Beside the published figures', blocks: [nothingInjected] };
  return {
    id: 'published',
    title: 'Beside the published figures',
    blocks: [
      {
        kind: 'prose',
        text: `Published: ${PUBLISHED_SETUP}; ${PUBLISHED_SOURCE}. Their intervals are ours, from the published rate and number of detected failures. Ours: ${[...new Set(series.map(({ name, campaign }) => `${name}: ${setupText(campaign)}`))].join('; ')}. Where the setups differ, so may the difficulty.`,
      },
      figure('success', 'Success: at most one AppVM affected, and the hypervisor works'),
      figure('noVmf', 'noVMF: no VM affected, and the hypervisor works'),
      ratesTable(comparable, beyond),
      manifestedTable(comparable),
      ...increments(all),
    ],
  };
}

interface Ours {
  readonly one: Series;
  readonly summary: CampaignSummary;
}
type Comparable = readonly { readonly type: (typeof PUBLISHED_FAULT_TYPES)[number]; readonly ours: readonly Ours[] }[];

function ratesTable(comparable: Comparable, beyond: readonly Ours[]): Block {
  const ourRow = (
    fault: string,
    { one, summary: { rates, detected } }: Ours,
    against?: { success: number; noVmf: number },
  ): TableRow => ({
    strong: true,
    cells: [
      fault,
      one.name,
      String(detected),
      rateText(rates.success),
      against === undefined ? '–' : beside(rates.success, against.success),
      rateText(rates.noVmf),
      against === undefined ? '–' : beside(rates.noVmf, against.noVmf),
    ],
  });
  return {
    kind: 'table',
    caption: "Rates over detected failures, and where our interval lies to NiLiHype's figure",
    columns: [
      { title: 'fault' },
      { title: 'system' },
      right('detected'),
      right('success [95 %]'),
      { title: 'to NiLiHype' },
      right('noVMF [95 %]'),
      { title: 'to NiLiHype' },
    ],
    rows: [
      ...comparable.flatMap(({ type, ours }) => [
        ...ours.map((one) => ourRow(type.name, one, type.systems.NiLiHype)),
        ...(['NiLiHype', 'ReHype'] as const).map((system): TableRow => {
          const n = detectedFailures(type);
          const { success, noVmf } = type.systems[system];
          return {
            cells: [
              type.name,
              `${system}, published`,
              String(n),
              rateText(publishedRate(success, n)),
              '',
              rateText(publishedRate(noVmf, n)),
              '',
            ],
          };
        }),
      ]),
      ...beyond.map((one) => ourRow(faultName(one.one.fault), one)),
    ],
  };
}

/** Where our interval lies to a published figure. */
export function beside({ interval }: Rate, figure: number): string {
  if (interval === null) return '–';
  return interval[0] > figure ? 'above' : interval[1] < figure ? 'below' : 'overlaps';
}

function manifestedTable(comparable: Comparable): Block {
  return {
    kind: 'table',
    caption: 'How faults showed: shares of the injected ones',
    columns: [
      { title: 'fault' },
      { title: 'system' },
      right('injected'),
      right('not manifested'),
      right('silent data corruption'),
      right('detected'),
    ],
    rows: comparable.flatMap(({ type, ours }) => [
      ...ours.map(
        ({ one, summary: { rates } }): TableRow => ({
          strong: true,
          cells: [
            type.name,
            one.name,
            String(rates.detected.of),
            rateText(rates.notManifested),
            rateText(rates.sdc),
            rateText(rates.detected),
          ],
        }),
      ),
      {
        cells: [
          type.name,
          'published',
          String(type.injected),
          percent(type.notManifested),
          percent(type.sdc),
          percent(type.detected),
        ],
      },
    ]),
  };
}

/** The published increments, beside ours where a campaign has variants of the mechanism. */
function increments(series: readonly Series[]): Block[] {
  const ours = series.filter(({ campaign }) => campaign.file.variants !== undefined);
  if (ours.length === 0) return [];
  return [
    { kind: 'heading', text: 'What each part of the mechanism is worth' },
    {
      kind: 'table',
      caption:
        'Success by variant of the mechanism (ours) and up to and including a part (published: 1AppVM, UnixBench, 1000 Failstop faults each)',
      columns: [
        { title: 'system' },
        { title: 'variant' },
        { title: 'steps left out' },
        right('failures'),
        right('success [95 %]'),
      ],
      rows: [
        ...ours.map((one): TableRow => {
          const { rates } = summarizeRecords(one.records);
          const variant = one.campaign.file.variants?.[one.records[0]?.variant ?? -1];
          return {
            strong: true,
            cells: [
              'ours',
              variant?.name ?? one.name,
              variant?.without.join(', ') || 'none',
              ofText(rates.success),
              rateText(rates.success),
            ],
          };
        }),
        ...PUBLISHED_INCREMENTS.map(({ system, upTo, success }): TableRow => {
          const shown = publishedRate(success, INCREMENT_FAULTS);
          return { cells: [`${system}, published`, upTo, '', ofText(shown), rateText(shown)] };
        }),
      ],
    },
  ];
}
