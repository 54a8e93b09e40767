/** What a campaign came to: counts, rates with their exact intervals, and times. Pure. */
import { clopperPearson, quantile } from '../common/statistics.js';
import { isSuccess, RECOVERY_ENDS, type RecoveryEnd, type RunRecord } from './record.js';

/** A share with its 95 % interval by Clopper and Pearson; all in 0..1. `null` where there is nothing to take a share of. */
export interface Rate {
  readonly count: number;
  readonly of: number;
  readonly share: number | null;
  readonly interval: readonly [low: number, high: number] | null;
}

/** Quantiles in milliseconds; `null` where nothing was measured. */
export interface Times {
  readonly count: number;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
  readonly max: number | null;
}

export interface CampaignSummary {
  /** Runs with a result: all but those in which we failed. */
  readonly runs: number;
  readonly notReached: number;
  readonly notManifested: number;
  readonly sdc: number;
  readonly detected: number;
  /** Of the detected: at most one AppVM affected, and the hypervisor works. */
  readonly success: number;
  /** Of the detected: no VM affected, and the hypervisor works. */
  readonly noVmf: number;
  /** Runs in which we failed. They count for nothing. */
  readonly infraErrors: number;
  /** Runs without a fault: as they should be, and not. */
  readonly golden: number;
  readonly falseAlarms: number;
  readonly ends: Readonly<Record<RecoveryEnd, number>>;
  readonly rates: {
    /** Of the runs in which something was injected. */
    readonly notManifested: Rate;
    readonly sdc: Rate;
    readonly detected: Rate;
    /** Of the detected. */
    readonly success: Rate;
    readonly noVmf: Rate;
    /** Of the golden runs. */
    readonly falseAlarms: Rate;
  };
  readonly latencyMs: Times;
  readonly detectionMs: Times;
  readonly outageMs: Times;
  readonly outsideOutageMs: Times;
}

export function summarizeRecords(records: readonly RunRecord[]): CampaignSummary {
  const count = (outcome: RunRecord['outcome']): number =>
    records.filter((record) => record.outcome === outcome).length;
  const detected = records.filter((record) => record.outcome === 'detected');
  const ends = Object.fromEntries(
    RECOVERY_ENDS.map((end) => [end, detected.filter((record) => record.end === end).length]),
  ) as Record<RecoveryEnd, number>;
  const success = detected.filter(isSuccess).length;
  const infraErrors = count('infra');
  const [notManifested, sdc, golden, falseAlarms] = [
    count('not-manifested'),
    count('sdc'),
    count('golden'),
    count('false-alarm'),
  ];
  const injected = notManifested + sdc + detected.length;
  return {
    runs: records.length - infraErrors,
    notReached: count('not-reached'),
    notManifested,
    sdc,
    detected: detected.length,
    success,
    noVmf: ends['no-vmf'],
    infraErrors,
    golden,
    falseAlarms,
    ends,
    rates: {
      notManifested: rate(notManifested, injected),
      sdc: rate(sdc, injected),
      detected: rate(detected.length, injected),
      success: rate(success, detected.length),
      noVmf: rate(ends['no-vmf'], detected.length),
      falseAlarms: rate(falseAlarms, golden + falseAlarms),
    },
    latencyMs: times(detected, (record) => record.latencyMs),
    detectionMs: times(detected, (record) => record.detectionMs),
    outageMs: times(detected, (record) => record.outageMs),
    outsideOutageMs: times(detected, (record) => record.outsideOutageMs),
  };
}

export function rate(count: number, of: number): Rate {
  if (of === 0) return { count, of, share: null, interval: null };
  const { share, low, high } = clopperPearson(count, of);
  return { count, of, share, interval: [low, high] };
}

function times(records: readonly RunRecord[], of: (record: RunRecord) => number | undefined): Times {
  const values = records.flatMap((record) => of(record) ?? []);
  if (values.length === 0) return { count: 0, p50: null, p95: null, p99: null, max: null };
  const at = (q: number): number => Math.round(quantile(values, q) * 1000) / 1000;
  return { count: values.length, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) };
}
