/** What many runs came to: shares with exact intervals, the latency's quantiles, and every failure with its cause. */
import { clopperPearson, type Proportion, summarize } from '../common/statistics.js';
import { type ColorMode, count, duration, paint, wrap } from './style.js';
import { table } from './table.js';

/** One run of a demo, as far as the tally counts it. */
export interface RunResult {
  /** From 1. */
  readonly run: number;
  readonly verdict: 'success' | 'failure';
  /** No VM was affected at all (noVMF). */
  readonly noVmf: boolean;
  /** Where the fault was injected, as `function+offset`. */
  readonly point: string;
  /** What went wrong; also told for a success in which one VM was affected. */
  readonly cause?: string;
  /** From the stop of the machine to its resumption, in milliseconds. */
  readonly latencyMs?: number;
}

export interface Tally {
  readonly runs: number;
  readonly success: number;
  readonly noVmf: number;
  readonly failures: readonly { readonly run: number; readonly point: string; readonly cause: string }[];
}

export function tallyOf(results: readonly RunResult[]): Tally {
  return {
    runs: results.length,
    success: results.filter((result) => result.verdict === 'success').length,
    noVmf: results.filter((result) => result.noVmf).length,
    failures: results
      .filter((result) => result.verdict === 'failure')
      .map(({ run, point, cause }) => ({ run, point, cause: cause ?? 'unknown' })),
  };
}

export function tallyLines(results: readonly RunResult[], options: { width: number; colors: ColorMode }): string[] {
  const p = paint(options.colors);
  const tally = tallyOf(results);
  const lines = [p.bold(count(tally.runs, 'run')), ''];
  if (tally.runs > 0) {
    const row = (name: string, meaning: string, successes: number): string[] => [
      name,
      share(clopperPearson(successes, tally.runs)),
      interval(clopperPearson(successes, tally.runs)),
      p.dim(meaning),
    ];
    const rows = [
      row('success', 'at most one AppVM affected, a new VM created', tally.success),
      row('noVMF', 'no VM affected', tally.noVmf),
    ];
    lines.push(
      ...table([{ title: '' }, { title: 'share', align: 'right' }, { title: '95 % interval' }, { title: '' }], rows, p),
    );
  }
  const latencies = results.flatMap((result) => (result.latencyMs === undefined ? [] : [result.latencyMs]));
  if (latencies.length > 0) {
    const { p50, p95, p99, max } = summarize(latencies);
    const figures = `p50 ${duration(p50)}, p95 ${duration(p95)}, p99 ${duration(p99)}, max ${duration(max)}`;
    lines.push(
      '',
      `latency  ${figures}${p.dim(`  (${count(latencies.length, 'recovery').replace('recoverys', 'recoveries')})`)}`,
    );
  }
  const told = results.filter((result) => result.cause !== undefined || result.verdict === 'failure');
  if (told.length > 0) {
    lines.push('', p.bold('what went wrong'));
    for (const { run, verdict, point, cause } of told) {
      const mark = verdict === 'failure' ? p.red('✗') : p.yellow('!');
      const [first = '', ...rest] = wrap(`${point}: ${cause ?? 'unknown'}`, options.width - 12);
      lines.push(`  ${mark} run ${String(run).padStart(3)}  ${first}`, ...rest.map((line) => `             ${line}`));
    }
  }
  return lines;
}

const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
const share = (p: Proportion): string => `${p.successes}/${p.trials} = ${percent(p.share)}`;
const interval = (p: Proportion): string => `${percent(p.low)} – ${percent(p.high)}`;
