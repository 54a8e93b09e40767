/** Where in Xen the faults hit, and what became of them there. */
import type { RunRecord } from '../../campaign/record.js';
import { rate } from '../../campaign/summary.js';
import { stacked } from '../chart/stacked.js';
import type { Block, Section } from '../document/document.js';
import { functionOf, subsystemOf } from '../subsystems.js';
import type { Series } from './input.js';
import { FATE_CLASS, FAULT_FATES, fateLegend, fateOf, rateText } from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });
const FUNCTIONS_SHOWN = 20;
const FUNCTIONS_DRAWN = 12;

interface Place {
  readonly name: string;
  readonly records: readonly RunRecord[];
}

export function places(series: readonly Series[]): Section {
  const hit = series.flatMap(({ records }) =>
    records.filter(({ point, outcome }) => point !== undefined && outcome !== 'infra' && outcome !== 'not-reached'),
  );
  const title = 'Where faults hit';
  if (hit.length === 0) return { id: 'places', title, blocks: [{ kind: 'prose', text: 'No fault was injected.' }] };
  const subsystems = grouped(hit, (record) => subsystemOf(record.point?.at ?? ''));
  const functions = grouped(hit, (record) => functionOf(record.point?.at ?? ''));
  const hypercalls = grouped(
    hit.filter(({ point }) => point?.hypercall !== undefined),
    ({ point }) => point?.hypercall ?? '',
  );
  return {
    id: 'places',
    title,
    blocks: [
      {
        kind: 'prose',
        text: 'All series together, by the function that the CPU was in when the fault was injected. Subsystems go by the names of functions (see the guide "Reading reports").',
      },
      figure('places-subsystems', 'Faults by subsystem of Xen', subsystems),
      tableOf('Subsystems', 'subsystem', subsystems),
      figure(
        'places-functions',
        `The ${Math.min(FUNCTIONS_DRAWN, functions.length)} functions that were hit most`,
        functions.slice(0, FUNCTIONS_DRAWN),
      ),
      tableOf(
        `Functions that were hit most (${Math.min(FUNCTIONS_SHOWN, functions.length)} of ${functions.length})`,
        'function',
        functions.slice(0, FUNCTIONS_SHOWN),
        true,
      ),
      ...(hypercalls.length === 0
        ? []
        : [tableOf('Hypercalls under way', 'hypercall', hypercalls.slice(0, FUNCTIONS_SHOWN), true)]),
    ],
  };
}

function grouped(records: readonly RunRecord[], by: (record: RunRecord) => string): Place[] {
  const groups = new Map<string, RunRecord[]>();
  for (const record of records) {
    const name = by(record);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [record]);
    else group.push(record);
  }
  return [...groups]
    .map(([name, of]) => ({ name, records: of }))
    .sort((a, b) => b.records.length - a.records.length || a.name.localeCompare(b.name));
}

function figure(id: string, caption: string, all: readonly Place[]): Block {
  const rows = all.map(({ name, records }) => ({
    name,
    figure: String(records.length),
    parts: FAULT_FATES.map((fate) => {
      const value = records.filter((record) => fateOf(record) === fate).length;
      return { value, class: FATE_CLASS[fate], text: String(value) };
    }),
  }));
  return {
    kind: 'figure',
    id,
    caption,
    legend: fateLegend,
    draw: (canvas) =>
      stacked(canvas, {
        title: caption,
        description: rows.map((row) => `${row.name} ${row.figure}`).join(', '),
        axisTitle: 'faults',
        format: (value) => (Number.isInteger(value) ? String(value) : ''),
        rows,
      }),
  };
}

function tableOf(caption: string, what: string, all: readonly Place[], isCode = false): Block {
  return {
    kind: 'table',
    caption,
    folded: true,
    columns: [
      { title: what },
      right('faults'),
      right('detected'),
      right('success of detected [95 %]'),
      right('failed'),
      right('silent data corruption'),
    ],
    rows: all.map(({ name, records }) => {
      const of = (...fates: readonly string[]): number =>
        records.filter((record) => fates.includes(fateOf(record))).length;
      const [good, failed] = [of('no-vmf', 'one-vm'), of('failed')];
      return {
        cells: [
          isCode ? { kind: 'code', text: name } : name,
          String(records.length),
          String(good + failed),
          rateText(rate(good, good + failed)),
          String(failed),
          String(of('sdc')),
        ],
      };
    }),
  };
}
