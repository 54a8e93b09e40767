/** How long a recovery takes, and how long the outage is that the machines see. */
import type { RunRecord } from '../../campaign/record.js';
import { quantile } from '../../common/statistics.js';
import type { Mark } from '../chart/axis.js';
import { curves, histogram } from '../chart/distribution.js';
import { logDomain } from '../chart/scale.js';
import { stacked } from '../chart/stacked.js';
import type { Block, LegendItem, Section, TableRow } from '../document/document.js';
import { PUBLISHED_LATENCIES } from '../published.js';
import { duration } from '../style.js';
import type { Series } from './input.js';
import { milliseconds, seriesClass } from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });

interface Timed {
  readonly name: string;
  readonly class: string;
  readonly values: readonly number[];
}

const timed = (series: readonly Series[], of: (record: RunRecord) => number | undefined): Timed[] =>
  series
    .map(({ name, records }, index) => ({
      name,
      class: seriesClass(index),
      values: records.filter(({ outcome }) => outcome !== 'infra').flatMap((record) => of(record) ?? []),
    }))
    .filter(({ values }) => values.length > 0);

/** Ticks of a time axis: 0.5 ms, 20 ms, 1 s. */
const tick = (ms: number): string => (ms < 1000 ? `${ms} ms` : `${ms / 1000} s`);

const quantileMarks = (values: readonly number[]): Mark[] =>
  (
    [
      [0.5, 'p50'],
      [0.95, 'p95'],
      [0.99, 'p99'],
    ] as const
  ).map(([q, name]) => {
    const value = quantile(values, q);
    return { value, text: `${name} ${duration(value)}`, class: 'quantile' };
  });

export const PUBLISHED_MARKS: readonly Mark[] = PUBLISHED_LATENCIES.map(({ system, totalMs }) => ({
  value: totalMs,
  text: `${system} ${totalMs} ms`,
  class: system.toLowerCase(),
}));

const legendOf = (all: readonly Timed[]): LegendItem[] =>
  all.map(({ name, class: colour, values }) => ({ text: `${name} (${values.length})`, class: colour, shape: 'line' }));

const timesRow = (cells: readonly string[], values: readonly number[]): TableRow => ({
  cells: [...cells, String(values.length), ...[0.5, 0.95, 0.99, 1].map((q) => milliseconds(quantile(values, q)))],
});

export function latency(series: readonly Series[]): Section {
  const all = timed(series, (record) => record.latencyMs);
  const title = 'Latency of the recovery';
  if (all.length === 0) return { id: 'latency', title, blocks: [nothing('No recovery was made.')] };
  const domain = logDomain([...all.flatMap(({ values }) => values), ...PUBLISHED_MARKS.map(({ value }) => value)]);
  const axisTitle = 'latency (logarithmic)';
  return {
    id: 'latency',
    title,
    blocks: [
      {
        kind: 'prose',
        text: "From the stop of the machine to its resumption, by the host's clock. Dashed lines are the published latencies with 8 GB: NiLiHype 22 ms, ReHype 713 ms.",
      },
      {
        kind: 'figure',
        id: 'latency-curves',
        caption: 'Share of recoveries that took no longer',
        legend: legendOf(all),
        draw: (canvas) =>
          curves(canvas, {
            title: 'Cumulative distribution of recovery latency',
            description: all
              .map(
                ({ name, values }) =>
                  `${name}: median ${duration(quantile(values, 0.5))}, 99 % within ${duration(quantile(values, 0.99))}`,
              )
              .join('. '),
            axisTitle,
            domain,
            curves: all,
            marks: PUBLISHED_MARKS,
            format: tick,
          }),
      },
      ...all.map(
        ({ name, class: colour, values }, index): Block => ({
          kind: 'figure',
          id: `latency-histogram-${index}`,
          caption: `${name}: recoveries by latency`,
          legend: [],
          draw: (canvas) =>
            histogram(canvas, {
              title: `Histogram of recovery latency of ${name}`,
              description: `${values.length} recoveries; median ${duration(quantile(values, 0.5))}, 95 % within ${duration(quantile(values, 0.95))}, 99 % within ${duration(quantile(values, 0.99))}.`,
              axisTitle,
              values,
              domain,
              class: colour,
              marks: [...quantileMarks(values), ...PUBLISHED_MARKS],
              format: tick,
            }),
        }),
      ),
      {
        kind: 'table',
        caption: 'Latency in milliseconds',
        columns: [{ title: 'series' }, right('recoveries'), right('p50'), right('p95'), right('p99'), right('max')],
        rows: [
          ...all.map(({ name, values }) => ({ ...timesRow([name], values), strong: true })),
          ...PUBLISHED_LATENCIES.map(({ system, totalMs, parts }) => ({
            cells: [
              `${system}, published: ${parts.map(({ what, ms }) => `${what} ${ms}`).join(', ')}`,
              '',
              String(totalMs),
              '',
              '',
              '',
            ],
          })),
        ],
      },
      ...phaseBlocks(series),
    ],
  };
}

/** In the order in which a recovery goes through them. */
export const PHASES = [
  { key: 'captureMs', name: 'capture', class: 's0' },
  { key: 'settleMs', name: 'settle', class: 's1' },
  { key: 'planMs', name: 'plan', class: 's2' },
  { key: 'checkMs', name: 'check', class: 's3' },
  { key: 'commitMs', name: 'commit', class: 's4' },
  { key: 'resumeMs', name: 'resume', class: 's5' },
] as const;

function phaseBlocks(series: readonly Series[]): Block[] {
  const all = series
    .map(({ name, records }) => ({
      name,
      phases: records.flatMap((record) => (record.phases === undefined ? [] : [record.phases])),
    }))
    .filter(({ phases }) => phases.length > 0);
  if (all.length === 0) return [];
  const median = (phases: readonly Record<string, number>[], key: string, q = 0.5): number =>
    quantile(
      phases.map((one) => one[key] ?? 0),
      q,
    );
  return [
    { kind: 'heading', text: 'Where the time goes' },
    {
      kind: 'figure',
      id: 'latency-phases',
      caption: 'Median of each phase of a recovery',
      legend: PHASES.map(({ name, class: colour }) => ({ text: name, class: colour, shape: 'box' })),
      draw: (canvas) =>
        stacked(canvas, {
          title: 'Median time of each phase of a recovery',
          description: all
            .map(
              ({ name, phases }) =>
                `${name}: ${PHASES.map((phase) => `${phase.name} ${milliseconds(median(phases, phase.key))} ms`).join(', ')}`,
            )
            .join('. '),
          axisTitle: 'milliseconds, medians laid end to end',
          format: (value) => `${value} ms`,
          rows: all.map(({ name, phases }) => {
            const parts = PHASES.map((phase) => ({
              value: median(phases, phase.key),
              class: phase.class,
              text: milliseconds(median(phases, phase.key)),
            }));
            return { name, figure: `${phases.length} recoveries`, parts };
          }),
        }),
    },
    {
      kind: 'table',
      caption: 'Phases in milliseconds: median / p95',
      columns: [{ title: 'series' }, ...PHASES.map(({ name }) => right(name))],
      rows: all.map(({ name, phases }) => ({
        cells: [
          name,
          ...PHASES.map(
            ({ key }) => `${milliseconds(median(phases, key))} / ${milliseconds(median(phases, key, 0.95))}`,
          ),
        ],
      })),
    },
  ];
}

export function outage(series: readonly Series[]): Section {
  const all = timed(series, (record) => record.outageMs);
  const title = 'Outage, detection included';
  if (all.length === 0) return { id: 'outage', title, blocks: [nothing('No outage was measured.')] };
  const outside = timed(series, (record) => record.outsideOutageMs);
  const domain = logDomain([...all, ...outside].flatMap(({ values }) => values));
  const figure = (id: string, caption: string, shown: readonly Timed[]): Block => ({
    kind: 'figure',
    id,
    caption,
    legend: legendOf(shown),
    draw: (canvas) =>
      curves(canvas, {
        title: caption,
        description: shown
          .map(
            ({ name, values }) =>
              `${name}: median ${duration(quantile(values, 0.5))}, 99 % within ${duration(quantile(values, 0.99))}`,
          )
          .join('. '),
        axisTitle: 'outage (logarithmic)',
        domain,
        curves: shown,
        marks: [],
        format: tick,
      }),
  });
  return {
    id: 'outage',
    title,
    blocks: [
      {
        kind: 'prose',
        text: 'From the moment the broken CPU ran on to the resumption: detection and recovery together. For a hang the detection is the larger part. "Seen outside" is the longest silence that the sender outside the box saw; only setups with NetBench have it.',
      },
      figure('outage-curves', 'Share of outages that were no longer', all),
      ...(outside.length === 0
        ? []
        : [figure('outside-curves', 'The same, as the sender outside the box saw it', outside)]),
      {
        kind: 'table',
        caption: 'Detection and outage in milliseconds, by kind of failure',
        columns: [
          { title: 'series' },
          { title: 'failure' },
          { title: 'time' },
          right('runs'),
          right('p50'),
          right('p95'),
          right('p99'),
          right('max'),
        ],
        rows: series.flatMap(outageRows),
      },
    ],
  };
}

const TIMES = [
  { name: 'detection', of: (record: RunRecord) => record.detectionMs },
  { name: 'outage', of: (record: RunRecord) => record.outageMs },
  { name: 'outage seen outside', of: (record: RunRecord) => record.outsideOutageMs },
] as const;

function outageRows({ name, records }: Series): TableRow[] {
  const detected = records.filter(({ outcome }) => outcome === 'detected');
  const kinds = [...new Set(detected.flatMap(({ failures }) => failures[0]?.kind ?? []))].sort((a, b) =>
    a.localeCompare(b),
  );
  const groups = [
    { kind: 'all', of: detected },
    ...(kinds.length < 2
      ? []
      : kinds.map((kind) => ({ kind, of: detected.filter(({ failures }) => failures[0]?.kind === kind) }))),
  ];
  return groups.flatMap(({ kind, of: group }) =>
    TIMES.flatMap((time) => {
      const values = group.flatMap((record) => time.of(record) ?? []);
      return values.length === 0 ? [] : [timesRow([name, kind, time.name], values)];
    }),
  );
}

const nothing = (text: string): Block => ({ kind: 'prose', text });
