/** What made recoveries fail: the causes of the runs, grouped by what they have in common, the most frequent first. */

import { basename, dirname } from 'node:path';
import { runName } from '../../campaign/plan.js';
import type { RunRecord } from '../../campaign/record.js';
import type { Block, Inline, Section, TableRow } from '../document/document.js';
import { type ReportInput, runAnchor, type Series } from './input.js';
import { END_WORDS, fateOf, percent } from './words.js';

const right = (title: string) => ({ title, align: 'right' as const });
const RUNS_SHOWN = 12;
const EVIDENCE_SHOWN = 3;

interface Found {
  readonly series: Series;
  readonly record: RunRecord;
}

export function causes(input: ReportInput, series: readonly Series[]): Section {
  const all = series.flatMap((one) => one.records.map((record): Found => ({ series: one, record })));
  const of = (...fates: readonly string[]): Found[] => all.filter(({ record }) => fates.includes(fateOf(record)));
  const detected = of('no-vmf', 'one-vm', 'failed').length;
  const affected = of('failed', 'one-vm');
  const [silent, alarms] = [of('sdc'), of('false-alarm')];
  const blocks: Block[] = [];
  if (affected.length === 0)
    blocks.push({ kind: 'prose', text: `Nothing did: no VM was affected in ${detected} detected failures.` });
  else {
    const failed = of('failed').length;
    blocks.push({
      kind: 'prose',
      text: `Of ${detected} detected failures ${failed} were not recovered with success, and in ${affected.length - failed} more one AppVM was affected. Causes that differ only in addresses, numbers and the names of VMs are one group.`,
    });
    blocks.push(causeTable('Causes, most frequent first', input, affected, detected, 'of detected'));
  }
  if (silent.length > 0)
    blocks.push(
      causeTable('Silent data corruption: a VM was affected, nothing was detected', input, silent, undefined, ''),
    );
  if (alarms.length > 0)
    blocks.push(causeTable('False alarms: something was seen, and nothing was injected', input, alarms, undefined, ''));
  return {
    id: 'causes',
    title: 'What made recoveries fail',
    blocks,
  };
}

/** Runs in which we failed, told apart from all results. */
export function ownErrors(series: readonly Series[]): Section | undefined {
  const own = series.flatMap((one) =>
    one.records.filter(({ outcome }) => outcome === 'infra').map((record): Found => ({ series: one, record })),
  );
  if (own.length === 0) return undefined;
  const rows = groupsOf(own, ({ record }) => `${record.errorCode ?? 'NL_INTERNAL'}|${causeKey(record)}`).map(
    (group): TableRow => {
      const [first] = group;
      return {
        cells: [
          { kind: 'code', text: first?.record.errorCode ?? 'NL_INTERNAL' },
          first === undefined ? '' : causeText(first.record),
          String(group.length),
          runLinks(group, new Set(series.map(({ campaign }) => campaign)).size > 1),
        ],
      };
    },
  );
  return {
    id: 'own-errors',
    title: 'Our own errors',
    blocks: [
      {
        kind: 'prose',
        text: 'Runs in which ninelives itself failed say nothing about Xen. They are in no count, rate or chart; "campaign resume" makes them again.',
      },
      {
        kind: 'table',
        caption: 'Errors by code',
        columns: [{ title: 'code' }, { title: 'what happened' }, right('runs'), { title: 'which' }],
        rows,
      },
    ],
  };
}

function causeTable(
  caption: string,
  input: ReportInput,
  found: readonly Found[],
  total: number | undefined,
  share: string,
): Block {
  const groups = groupsOf(found, ({ record }) => causeKey(record));
  const largest = groups[0]?.length ?? 1;
  return {
    kind: 'table',
    caption,
    columns: [
      { title: 'runs' },
      ...(total === undefined ? [] : [right(share)]),
      { title: 'cause' },
      ...(total === undefined ? [] : [{ title: 'how it ended' }]),
      { title: 'which' },
      { title: 'evidence' },
    ],
    rows: groups.map((group): TableRow => {
      const [first] = group;
      return {
        cells: [
          [
            { kind: 'bar', share: group.length / largest, class: first === undefined ? 'bad' : colourOf(first.record) },
            String(group.length),
          ],
          ...(total === undefined ? [] : [percent(group.length / total)]),
          first === undefined ? '' : causeText(first.record, group.length > 1),
          ...(total === undefined ? [] : [[...new Set(group.map(({ record }) => endText(record)))].join('; ')]),
          runLinks(group, input.campaigns.length > 1),
          evidenceLinks(input, group),
        ],
      };
    }),
  };
}

const colourOf = (record: RunRecord): string => {
  const fate = fateOf(record);
  return fate === 'one-vm' ? 'fair' : fate === 'failed' ? 'bad' : 'sdc';
};

const endText = ({ end, outcome }: RunRecord): string => (end === undefined ? outcome : END_WORDS[end]);

/** Most frequent first; of equals the one that was seen first. */
function groupsOf(found: readonly Found[], key: (one: Found) => string): Found[][] {
  const groups = new Map<string, Found[]>();
  for (const one of found) {
    const name = key(one);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [one]);
    else group.push(one);
  }
  return [...groups.values()].sort((a, b) => b.length - a.length);
}

/** The cause without what differs from run to run. */
export function causeKey(record: RunRecord): string {
  const names = record.vms.map(({ name }) => name).filter((name) => name !== 'dom0');
  return generalized(record.cause ?? 'unknown', names);
}

function causeText(record: RunRecord, isGroup = false): string {
  return isGroup ? causeKey(record) : (record.cause ?? 'unknown');
}

/** Addresses, offsets, numbers, vCPUs and names of VMs are replaced by what they are. */
export function generalized(cause: string, vmNames: readonly string[]): string {
  let text = cause.split('\n')[0] ?? '';
  for (const name of vmNames)
    text = text.replaceAll(new RegExp(`(?<![\\w-])${escapeRegExp(name)}(?![\\w-])`, 'g'), 'an AppVM');
  return text
    .replace(/([A-Za-z_][\w.]*)\+0x[0-9a-f]+(\/0x[0-9a-f]+)?/g, '$1')
    .replace(/\b0x[0-9a-f]+\b|\b[0-9a-f]{8,16}\b/gi, '0x…')
    .replace(/\bd(\d+|\[IDLE\])v\d+\b/g, 'a vCPU')
    .replace(/\bCPU ?#?\d+\b/g, 'a CPU')
    .replace(/(?<![\w.])\d+(\.\d+)?(?![\w])/g, 'N')
    .replace(/\s+/g, ' ')
    .trim();
}

const escapeRegExp = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** `14, 65 and 3 more`; `named` puts the name of the campaign before its runs. */
function runLinks(group: readonly Found[], named: boolean): Inline[] {
  const campaigns = [...new Set(group.map(({ series }) => series.campaignIndex))];
  return campaigns.flatMap((index, place): Inline[] => {
    const of = group.filter(({ series }) => series.campaignIndex === index);
    const name = !named ? '' : `${of[0]?.series.campaignName}: `;
    const links = of
      .slice(0, RUNS_SHOWN)
      .flatMap(({ series, record }, at): Inline[] => [
        ...(at === 0 ? [] : [', ']),
        { kind: 'anchor', text: runName(record), to: runAnchor(series, record) },
      ]);
    const more = of.length - RUNS_SHOWN;
    return [place === 0 ? name : `; ${name}`, ...links, ...(more > 0 ? [` and ${more} more`] : [])];
  });
}

/** The first file of the first few runs; the timeline of a run names all of its files. */
function evidenceLinks(input: ReportInput, group: readonly Found[]): Inline[] {
  const files = group.flatMap(({ series, record }) => {
    const [path] = record.evidence;
    return path === undefined
      ? []
      : [{ text: basename(dirname(path)), href: input.evidencePath(series.campaign, path) }];
  });
  if (files.length === 0) return ['–'];
  return files
    .slice(0, EVIDENCE_SHOWN)
    .flatMap(({ text, href }, index): Inline[] => [...(index === 0 ? [] : [', ']), { kind: 'file', text, href }]);
}
