/** The report on campaigns, as a document: a value that `document/` writes as HTML, Markdown or text. */

import type { Report, Section } from '../document/document.js';
import { count } from '../style.js';
import { published } from './beside-published.js';
import { causes, ownErrors } from './causes.js';
import { type CampaignInput, type ReportInput, seriesOf, setupText } from './input.js';
import { glance, outcomes } from './outcomes.js';
import { places } from './places.js';
import { type RunChoice, runs } from './runs.js';
import { latency, outage } from './times.js';

export function campaignReport(input: ReportInput, choice: RunChoice = 'all'): Report {
  const { campaigns } = input;
  const series = seriesOf(campaigns);
  const done = campaigns.reduce((sum, { records }) => sum + records.length, 0);
  const names = [...new Set(campaigns.map(({ meta }) => meta.name))];
  return {
    title: names.length === 1 ? `Campaign ${names[0]}` : `Campaigns ${names.join(', ')}`,
    subtitle: `${count(done, 'run')} in ${count(campaigns.length, 'campaign')}: how often and how fast a failed hypervisor was brought back`,
    sections: [
      glance(campaigns, series),
      outcomes(series),
      published(series),
      latency(series),
      outage(series),
      places(series),
      causes(input, series),
      ownErrors(series),
      runs(input, series, choice),
      setup(campaigns),
    ].filter((section) => section !== undefined),
  };
}

function setup(campaigns: readonly CampaignInput[]): Section {
  return {
    id: 'setup',
    title: 'How it was measured',
    blocks: campaigns.flatMap((campaign) => [
      {
        kind: 'table' as const,
        caption: campaign.meta.name,
        columns: [{ title: 'fact' }, { title: 'value' }],
        rows: facts(campaign).map(([name, value]) => ({
          cells: [name, name === 'command' ? { kind: 'code' as const, text: value } : value],
        })),
      },
    ]),
  };
}

function facts(campaign: CampaignInput): [string, string][] {
  const { file, meta, dir, planned, records } = campaign;
  const { versions, host, shard } = meta;
  const choice = (value: object | undefined): string =>
    value === undefined
      ? 'none'
      : JSON.stringify(value).replace(/["{}]/g, '').replaceAll(',', ', ').replaceAll(':', ': ');
  const list: [string, string | undefined][] = [
    ['what for', file.description],
    ['box', setupText(campaign)],
    ['fault', choice(file.fault)],
    ['trigger', choice(file.trigger)],
    ['mechanism', file.mechanism.name],
    ['steps left out', file.mechanism.without.length === 0 ? 'none' : file.mechanism.without.join(', ')],
    [
      'runs',
      `${records.length} of ${planned.length}${shard === undefined ? '' : `, part ${shard.index} of ${shard.count}`}`,
    ],
    ['seed', String(file.seed)],
    ['begun', meta.createdAt],
    ['ninelives', versions?.ninelives],
    ['Xen', versions?.xen],
    ['QEMU', versions?.qemu],
    ['kernel of the guests', versions?.kernel],
    ['snapshot', versions?.snapshot],
    ['later snapshots', meta.laterSnapshots.length === 0 ? undefined : meta.laterSnapshots.join(', ')],
    ['host', `${host.model}, ${count(host.cores, 'core')}, ${host.memoryMiB} MiB, ${count(meta.jobs, 'job')}`],
    ['merged from', meta.mergedFrom?.join(', ')],
    ['command', `ninelives campaign run ${dir}/campaign.yaml --runs ${file.runs} --seed ${file.seed}`],
  ];
  return list.flatMap(([name, value]): [string, string][] => (value === undefined ? [] : [[name, value]]));
}
