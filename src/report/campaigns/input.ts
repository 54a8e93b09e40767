/** What a report is made of: campaigns as their folders have them, cut into the series that are compared. */
import { basename } from 'node:path';
import type { Campaign } from '../../campaign/folder.js';
import { runName } from '../../campaign/plan.js';
import type { RunRecord } from '../../campaign/record.js';

/** What of a campaign the report needs; `readCampaign` gives it. */
export type CampaignInput = Pick<Campaign, 'dir' | 'file' | 'meta' | 'records' | 'damage' | 'planned'>;

export interface ReportInput {
  readonly campaigns: readonly CampaignInput[];
  /** Path of a file of a campaign's evidence, as seen from where the report will be. */
  evidencePath(campaign: CampaignInput, path: string): string;
}

/** Runs that belong together: those of one campaign, one variant of it, and one fault type. */
export interface Series {
  /** Unique in the report. */
  readonly name: string;
  readonly campaign: CampaignInput;
  /** Of its campaign in the report, from 0. */
  readonly campaignIndex: number;
  /** Unique in the report too. */
  readonly campaignName: string;
  /** The fault type as in the records; `none` for runs without a fault. */
  readonly fault: string;
  readonly records: readonly RunRecord[];
}

export function seriesOf(campaigns: readonly CampaignInput[]): Series[] {
  const names = uniqueNames(campaigns);
  return campaigns.flatMap((campaign, campaignIndex) => {
    const groups = new Map<string, { variant: string | undefined; fault: string; records: RunRecord[] }>();
    const sorted = [...campaign.records].sort(
      (a, b) => (a.variant ?? 0) - (b.variant ?? 0) || a.planned.fault.localeCompare(b.planned.fault) || a.run - b.run,
    );
    for (const record of sorted) {
      const key = `${record.variant ?? ''}/${record.planned.fault}`;
      const variant = record.variant === undefined ? undefined : campaign.file.variants?.[record.variant]?.name;
      const group = groups.get(key) ?? { variant, fault: record.planned.fault, records: [] };
      group.records.push(record);
      groups.set(key, group);
    }
    const faults = new Set([...groups.values()].map(({ fault }) => fault));
    return [...groups.values()].map(({ variant, fault, records }) => {
      const campaignName = names[campaignIndex] ?? campaign.meta.name;
      const parts = [campaignName, variant, faults.size > 1 ? fault : undefined];
      return {
        name: parts.filter((part) => part !== undefined).join(' / '),
        campaign,
        campaignIndex,
        campaignName,
        fault,
        records,
      };
    });
  });
}

/** Campaigns of one name are told apart by their folders, and by a number where those are of one name too. */
function uniqueNames(campaigns: readonly CampaignInput[]): string[] {
  const used = new Map<string, number>();
  return campaigns.map(({ meta, dir }) => {
    const shared = campaigns.filter((other) => other.meta.name === meta.name).length > 1;
    const folder = basename(dir);
    const name = shared && folder !== meta.name ? `${meta.name} (${folder})` : meta.name;
    const times = (used.get(name) ?? 0) + 1;
    used.set(name, times);
    return times === 1 ? name : `${name} #${times}`;
  });
}

/** Where a run's timeline is in the page. */
export const runAnchor = ({ campaignIndex }: Pick<Series, 'campaignIndex'>, record: RunRecord): string =>
  `c${campaignIndex}-run-${runName(record).replace('.', '-v')}`;

/** The box in a few words: "3appvm, 8 CPUs, 8192 MiB". */
export function setupText({ file }: CampaignInput): string {
  const { setup, guests, cpus, memory } = file.box;
  return [
    `setup ${setup}`,
    guests === undefined ? undefined : `${guests} guests`,
    cpus === undefined ? undefined : `${cpus} CPUs`,
    memory === undefined ? undefined : `${memory} MiB`,
    file.mechanism.without.length === 0 ? undefined : `without ${file.mechanism.without.join(', ')}`,
  ]
    .filter((part) => part !== undefined)
    .join(', ');
}

const FAULT_NAMES: Readonly<Record<string, string>> = {
  failstop: 'Failstop',
  register: 'Register',
  code: 'Code',
  memory: 'Memory',
  hang: 'Hang',
  'lock-leak': 'LockLeak',
  'software-bug': 'SoftwareBug',
  none: 'no fault',
};

export const faultName = (fault: string): string => FAULT_NAMES[fault] ?? fault;
