/** Two campaigns side by side: is one better, and could that be chance? Pure. */
import { type Difference, differenceOfShares, fisherExact } from '../common/statistics.js';
import type { RunRecord } from './record.js';
import { type CampaignSummary, type Rate, summarizeRecords } from './summary.js';

export interface RateComparison {
  readonly name: ComparedRate;
  readonly a: Rate;
  readonly b: Rate;
  /** `b` minus `a`, with its 95 % interval by Newcombe's method 10; `null` where one of them has no runs. */
  readonly difference: Difference | null;
  /** Two-sided, by Fisher's exact test. */
  readonly p: number | null;
}

export interface Comparison {
  readonly a: CampaignSummary;
  readonly b: CampaignSummary;
  readonly rates: readonly RateComparison[];
}

export const COMPARED_RATES = ['success', 'noVmf', 'detected', 'sdc', 'notManifested'] as const;
export type ComparedRate = (typeof COMPARED_RATES)[number];

export function compareRecords(a: readonly RunRecord[], b: readonly RunRecord[]): Comparison {
  const [first, second] = [summarizeRecords(a), summarizeRecords(b)];
  return {
    a: first,
    b: second,
    rates: COMPARED_RATES.map((name) => compareRates(name, first.rates[name], second.rates[name])),
  };
}

function compareRates(name: ComparedRate, a: Rate, b: Rate): RateComparison {
  if (a.of === 0 || b.of === 0) return { name, a, b, difference: null, p: null };
  const counted = ({ count, of }: Rate) => ({ successes: count, trials: of });
  return {
    name,
    a,
    b,
    difference: differenceOfShares(counted(b), counted(a)),
    p: fisherExact(counted(a), counted(b)),
  };
}
