/** Two campaigns side by side: is one better, and could that be chance? Does the same experiment repeat? Pure. */
import { isDeepStrictEqual } from 'node:util';
import { type Difference, differenceOfShares, fisherExact } from '../common/statistics.js';
import type { RunRecord } from './record.js';
import { type CampaignSummary, type Rate, rate, summarizeRecords } from './summary.js';

export interface RateComparison {
  readonly name: ComparedRate;
  readonly a: Rate;
  readonly b: Rate;
  /** `b` minus `a`, with its 95 % interval by Newcombe's method 10; `null` where one of them has no runs. */
  readonly difference: Difference | null;
  /** Two-sided, by Fisher's exact test. */
  readonly p: number | null;
}

/** Runs that both campaigns made with the same choices: how far one experiment made twice goes the same way. */
export interface Repetition {
  /** Runs with the same number and the same choices. */
  readonly runs: number;
  /** Of those: the fault hit the same CPU at the same instruction and changed the same value, or was reached in neither. */
  readonly samePoint: Rate;
  /** The same outcome and, of a detected failure, the same end. */
  readonly sameOutcome: Rate;
}

export interface Comparison {
  readonly a: CampaignSummary;
  readonly b: CampaignSummary;
  readonly rates: readonly RateComparison[];
  /** `null` where the campaigns have no run in common. */
  readonly repetition: Repetition | null;
}

export const COMPARED_RATES = ['success', 'noVmf', 'detected', 'sdc', 'notManifested'] as const;
export type ComparedRate = (typeof COMPARED_RATES)[number];

export function compareRecords(a: readonly RunRecord[], b: readonly RunRecord[]): Comparison {
  const [first, second] = [summarizeRecords(a), summarizeRecords(b)];
  return {
    a: first,
    b: second,
    rates: COMPARED_RATES.map((name) => compareRates(name, first.rates[name], second.rates[name])),
    repetition: repetitionOf(a, b),
  };
}

function repetitionOf(a: readonly RunRecord[], b: readonly RunRecord[]): Repetition | null {
  const key = ({ run, variant }: RunRecord): string => `${run}.${variant ?? ''}`;
  const ofA = new Map(a.map((record) => [key(record), record]));
  const pairs = b.flatMap((second) => {
    const first = ofA.get(key(second));
    const isSame = first !== undefined && isDeepStrictEqual(first.planned, second.planned);
    return isSame && first.outcome !== 'infra' && second.outcome !== 'infra' ? [[first, second] as const] : [];
  });
  if (pairs.length === 0) return null;
  const pointOf = ({ point }: RunRecord): string =>
    point === undefined ? '' : [point.cpu, ...point.backtrace, point.what].join(' ');
  const ended = ({ outcome, end }: RunRecord): string => `${outcome} ${end ?? ''}`;
  const share = (same: (record: RunRecord) => string): Rate =>
    rate(pairs.filter(([first, second]) => same(first) === same(second)).length, pairs.length);
  return { runs: pairs.length, samePoint: share(pointOf), sameOutcome: share(ended) };
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
