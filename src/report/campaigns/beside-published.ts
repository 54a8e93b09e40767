/** Our rates beside the published ones. */
import { type CampaignSummary, type Rate, summarizeRecords } from '../../campaign/summary.js';
import { forest, rateDomain } from '../chart/forest.js';
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
import { faultName, type Series, setupText } from './input.js';
import { nothingInjected, withFaults } from './outcomes.js';
import { forestRow, ofText, percent, publishedRate, rateText } from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });

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

type Variant = NonNullable<Series['campaign']['file']['variants']>[number];

/** `all`, `all but text`, or `+ text, timers` of a variant that adds to the one before it. */
function stepsText(variant: Variant | undefined): string {
  if (variant?.adds !== undefined) return `+ ${variant.adds.join(', ')}`;
  return variant?.without?.length ? `all but ${variant.without.join(', ')}` : 'all';
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
        { title: 'steps' },
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
              stepsText(variant),
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
