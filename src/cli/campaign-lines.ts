/** A campaign in lines of text: the status, its failures, one run. Pure. */
import type { Campaign } from '../campaign/folder.js';
import { runName } from '../campaign/plan.js';
import { isSuccess, type RunRecord } from '../campaign/record.js';
import { isNoteworthy } from '../campaign/run-record.js';
import { type CampaignSummary, type Rate, summarizeRecords, type Times } from '../campaign/summary.js';
import { count, duration, type Paint, wrap } from '../report/style.js';
import { table } from '../report/table.js';

const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
const share = ({ count: n, of, share: part }: Rate): string =>
  `${n}/${of}${part === null ? '' : ` = ${percent(part)}`}`;
const interval = (rate: Rate): string =>
  rate.interval === null ? '' : `${percent(rate.interval[0])} – ${percent(rate.interval[1])}`;

/** Counts with their intervals, then the times; what did not occur is left out. */
export function summaryLines(summary: CampaignSummary, p: Paint): string[] {
  const { rates, golden, falseAlarms } = summary;
  const row = (name: string, rate: Rate, meaning: string): string[] => [
    name,
    share(rate),
    interval(rate),
    p.dim(meaning),
  ];
  const rows: string[][] = [];
  if (rates.detected.of > 0) {
    rows.push(
      row('success', rates.success, 'of the detected: at most one AppVM affected, a new VM created'),
      row('noVMF', rates.noVmf, 'of the detected: no VM affected'),
      row('detected', rates.detected, 'of the faults'),
      row('silent corruption', rates.sdc, 'of the faults: a VM is affected, nothing was detected'),
      row('not manifested', rates.notManifested, 'of the faults'),
    );
  }
  if (golden + falseAlarms > 0) rows.push(row('false alarms', rates.falseAlarms, 'of the runs without a fault'));
  const columns = [
    { title: '' },
    { title: 'share', align: 'right' as const },
    { title: '95 % interval' },
    { title: '' },
  ];
  const lines = rows.length === 0 ? [] : table(columns, rows, p);
  if (summary.notReached > 0)
    lines.push(p.dim(`${count(summary.notReached, 'run')} did not reach the point of injection`));
  if (summary.infraErrors > 0) lines.push(p.yellow(`${count(summary.infraErrors, 'run')} without a result: we failed`));
  const times = [
    timesLine('latency', summary.latencyMs),
    timesLine('detection', summary.detectionMs),
    timesLine('outage', summary.outageMs),
    timesLine('outage seen outside', summary.outsideOutageMs),
  ].filter((line) => line !== undefined);
  return times.length === 0 ? lines : [...lines, '', ...times];
}

function timesLine(name: string, { p50, p95, p99, max, count: n }: Times): string | undefined {
  if (p50 === null || p95 === null || p99 === null || max === null) return undefined;
  const figures = `p50 ${duration(p50)}, p95 ${duration(p95)}, p99 ${duration(p99)}, max ${duration(max)}`;
  return `${name.padEnd(19)}  ${figures}  (${n})`;
}

/** The whole status of a campaign; of each variant apart, where there are any. */
export function statusLines({ dir, meta, file, records, damage, planned }: Campaign, p: Paint): string[] {
  const shard = meta.shard === undefined ? '' : `, part ${meta.shard.index} of ${meta.shard.count}`;
  const lines = [
    `${p.bold(meta.name)}  ${records.length} of ${count(planned.length, 'run')}, seed ${file.seed}${shard}`,
    p.dim(`  ${dir}, begun ${meta.createdAt.slice(0, 19).replace('T', ' ')}${versionsText(meta)}`),
    '',
  ];
  if (file.variants === undefined) lines.push(...summaryLines(summarizeRecords(records), p));
  else {
    for (const [index, variant] of file.variants.entries()) {
      lines.push(p.bold(variant.name));
      lines.push(...summaryLines(summarizeRecords(records.filter((record) => record.variant === index)), p), '');
    }
  }
  for (const { line, kind, why } of damage) {
    lines.push(p.yellow(`line ${line} of the run log is ${kind} and does not count: ${why}`));
  }
  return lines;
}

const versionsText = ({ versions }: Campaign['meta']): string =>
  versions === undefined ? '' : `, Xen ${versions.xen}, QEMU ${versions.qemu}`;

/** One line for one run. */
export function runLine(record: RunRecord, p: Paint): string {
  const { outcome, end, latencyMs, point, cause } = record;
  const took = latencyMs === undefined ? '' : duration(latencyMs);
  const where = point === undefined ? '' : `${point.vcpu} ${point.at}`;
  const what = outcome === 'detected' ? (end ?? '') : outcome;
  const why = cause === undefined || outcome === 'not-reached' ? '' : `  ${p.dim(cause.split('\n')[0] ?? '')}`;
  return `${mark(record, p)} ${runName(record).padStart(6)}  ${what.padEnd(15)} ${took.padStart(8)}  ${where}${why}`;
}

function mark(record: RunRecord, p: Paint): string {
  switch (record.outcome) {
    case 'detected':
      return isSuccess(record) ? (record.end === 'no-vmf' ? p.green('✓') : p.yellow('!')) : p.red('✗');
    case 'sdc':
    case 'false-alarm':
      return p.red('✗');
    case 'infra':
      return p.yellow('?');
    case 'golden':
      return p.green('✓');
    default:
      return p.dim('·');
  }
}

/** What went wrong, in the order in which it happened. */
export function failureLines(records: readonly RunRecord[], p: Paint, width: number): string[] {
  return records.filter(isNoteworthy).flatMap((record) => {
    const head = runLine({ ...record, cause: undefined }, p);
    const text = record.outcome === 'infra' ? `${record.errorCode}: ${record.cause}` : (record.cause ?? '');
    return [head, ...wrap(text, width - 10).map((line) => `         ${p.dim(line)}`)];
  });
}

/** Everything that is known of one run. */
export function recordLines(record: RunRecord, dir: string, p: Paint, width: number): string[] {
  const { planned, point, failures, phases, vms, newVm, evidence, spentMs } = record;
  const fact = (name: string, text: string): string[] =>
    wrap(text, width - 14).map((line, index) => `${p.dim((index === 0 ? name : '').padEnd(12))}  ${line}`);
  const choices = (name: string, choice: object): string =>
    [name, ...Object.entries(choice).map(([key, value]) => `${key}=${JSON.stringify(value)}`)].join(' ');
  return [
    runLine(record, p),
    ...fact('begun', `${record.startedAt}, took ${duration(record.tookMs)}`),
    ...fact('fault', choices(planned.fault, planned.faultChoice)),
    ...fact('trigger', choices(planned.trigger, planned.triggerChoice)),
    ...(point === undefined
      ? []
      : [
          ...fact(
            'injected',
            `${point.what}, on CPU ${point.cpu} for ${point.vcpu} at ${point.at}, ${point.steps} instructions in`,
          ),
          ...(point.hypercall === undefined ? [] : fact('hypercall', point.hypercall)),
          ...fact('backtrace', point.backtrace.join(' < ')),
        ]),
    ...failures.flatMap(({ summary, afterMs }) => fact('failure', `${summary}, after ${duration(afterMs)}`)),
    ...(phases === undefined || record.latencyMs === undefined
      ? []
      : fact(
          'recovery',
          `${duration(record.latencyMs)}: ${Object.entries(phases)
            .map(([name, ms]) => `${name.replace(/Ms$/, '')} ${duration(ms)}`)
            .join(', ')}`,
        )),
    ...(record.outageMs === undefined ? [] : fact('outage', duration(record.outageMs))),
    ...vms.flatMap((vm) =>
      fact(
        vm.name,
        `${vm.kind}, ${vm.work}: ${vm.alive ? 'alive' : 'not alive'}, ${vm.intact ? 'intact' : 'not intact'}${vm.reason === undefined ? '' : `: ${vm.reason}`}`,
      ),
    ),
    ...(newVm === undefined ? [] : fact('new VM', newVm.ok ? 'created, and works' : (newVm.reason ?? 'failed'))),
    ...(record.errorCode === undefined ? [] : fact('error', record.errorCode)),
    ...(record.cause === undefined ? [] : fact('cause', record.cause)),
    ...evidence.flatMap((path, index) => fact(index === 0 ? 'evidence' : '', `${dir}/${path}`)),
    ...fact(
      'time',
      Object.entries(spentMs)
        .map(([name, ms]) => `${name} ${duration(ms)}`)
        .join(', '),
    ),
  ];
}

/** The object of `campaign status --json`; documented in docs/reference/campaign.md. */
export function statusObject({ dir, meta, file, records, damage, planned }: Campaign): object {
  const variants = file.variants?.map((variant, index) => ({
    name: variant.name,
    without: variant.without,
    ...summarizeRecords(records.filter((record) => record.variant === index)),
  }));
  return {
    name: meta.name,
    dir,
    seed: file.seed,
    planned: planned.length,
    done: records.length,
    ...summarizeRecords(records),
    ...(variants === undefined ? {} : { variants }),
    damage,
  };
}
