/** Figures as the report writes them, and the colours of things by what they mean. */
import type { RecoveryEnd, RunRecord } from '../../campaign/record.js';
import { type Rate, rate } from '../../campaign/summary.js';
import type { ForestRow } from '../chart/forest.js';
import type { LegendItem } from '../document/document.js';

/** `98.5 %`; `0 %` and `100 %` are exact, so `99.97 %` has a second decimal. */
export const percent = (share: number): string => `${figure(share)} %`;

function figure(share: number): string {
  const value = share * 100;
  if (share === 0 || share === 1) return String(value);
  const once = value.toFixed(1);
  return once === '100.0' || once === '0.0' ? value.toFixed(2) : once;
}

/** `98.5 % [95.7, 99.7]`; a dash where there is nothing to take a share of. */
export const rateText = ({ share, interval }: Rate): string =>
  share === null || interval === null ? '–' : `${percent(share)} [${figure(interval[0])}, ${figure(interval[1])}]`;

export const ofText = ({ count, of }: Rate): string => `${count} of ${of}`;

/** A published share of `trials`, with the interval that belongs to it. */
export const publishedRate = (share: number, trials: number): Rate => rate(Math.round(share * trials), trials);

export const forestRow = (name: string, one: Rate, colour: string): ForestRow => ({
  name,
  figure: one.share === null ? 'none yet' : rateText(one),
  share: one.share ?? Number.NaN,
  low: one.interval?.[0] ?? Number.NaN,
  high: one.interval?.[1] ?? Number.NaN,
  class: colour,
});

/** `7.3`, `412`, `1 240`: milliseconds in a table whose column says the unit. */
export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  if (value < 0.995) return value.toFixed(2);
  if (value < 99.95) return value.toFixed(1);
  return Math.round(value).toLocaleString('en-US').replaceAll(',', ' ');
}

/** What became of a run, coarse enough for a colour. */
export type Fate = 'no-vmf' | 'one-vm' | 'failed' | 'sdc' | 'false-alarm' | 'harmless' | 'not-reached' | 'infra';

export function fateOf({ outcome, end }: RunRecord): Fate {
  switch (outcome) {
    case 'detected':
      return end === 'no-vmf' || end === 'one-vm' ? end : 'failed';
    case 'sdc':
    case 'false-alarm':
    case 'not-reached':
    case 'infra':
      return outcome;
    case 'not-manifested':
    case 'golden':
      return 'harmless';
  }
}

export const FATE_WORDS: Readonly<Record<Fate, string>> = {
  'no-vmf': 'recovered, no VM affected',
  'one-vm': 'recovered, one AppVM affected',
  failed: 'recovery failed',
  sdc: 'silent data corruption',
  'false-alarm': 'false alarm',
  harmless: 'nothing happened',
  'not-reached': 'point not reached',
  infra: 'we failed',
};

/** Class of the colour in charts; see `page-style.ts`. */
export const FATE_CLASS: Readonly<Record<Fate, string>> = {
  'no-vmf': 'good',
  'one-vm': 'fair',
  failed: 'bad',
  sdc: 'sdc',
  'false-alarm': 'sdc',
  harmless: 'calm',
  'not-reached': 'calm',
  infra: 'ours-fault',
};

export const END_WORDS: Readonly<Record<RecoveryEnd, string>> = {
  'no-vmf': 'no VM affected',
  'one-vm': 'one AppVM affected',
  vms: 'more than one AppVM affected',
  privvm: 'PrivVM affected',
  'no-new-vm': 'no new VM can be created',
  'failed-again': 'the hypervisor failed again',
  'not-recoverable': 'not recoverable by the mechanism',
};

/** The fates that a fault can have, in the order in which charts stack them. */
export const FAULT_FATES = ['no-vmf', 'one-vm', 'failed', 'sdc', 'harmless'] as const satisfies readonly Fate[];

export const fateLegend: readonly LegendItem[] = FAULT_FATES.map((fate) => ({
  text: FATE_WORDS[fate],
  class: FATE_CLASS[fate],
  shape: 'box',
}));

/** Colour and dashes of the n-th series; the seventh looks like the first. */
export const seriesClass = (index: number): string => `s${index % 6}`;
