/** Every run as it went, from its record: what was injected, how it was seen, what the recovery took, who came through. */
import { runName } from '../../campaign/plan.js';
import type { RunRecord } from '../../campaign/record.js';
import type { Inline, RunEntry, RunEvent, RunGroup, Section, Strip } from '../document/document.js';
import { duration } from '../style.js';
import { type ReportInput, runAnchor, type Series } from './input.js';
import { PHASES } from './times.js';
import { END_WORDS, FATE_CLASS, FATE_WORDS, type Fate, fateOf } from './words.js';

/** The worst first. */
const ORDER: readonly Fate[] = ['failed', 'one-vm', 'sdc', 'false-alarm', 'infra', 'no-vmf', 'harmless', 'not-reached'];

/** Which runs the report has; the others are counted as before. */
export type RunChoice = 'all' | 'noteworthy' | 'none';
const NOTEWORTHY = new Set<Fate>(['failed', 'one-vm', 'sdc', 'false-alarm', 'infra']);

export function runs(input: ReportInput, series: readonly Series[], choice: RunChoice): Section | undefined {
  if (choice === 'none') return undefined;
  const groups = ORDER.filter((fate) => choice === 'all' || NOTEWORTHY.has(fate)).flatMap((fate): RunGroup[] => {
    const entries = series.flatMap((one) =>
      one.records.filter((record) => fateOf(record) === fate).map((record) => entry(input, one, record)),
    );
    if (entries.length === 0) return [];
    return [{ title: `${FATE_WORDS[fate]} (${entries.length})`, open: fate === 'failed', runs: entries }];
  });
  if (groups.length === 0) return undefined;
  return {
    id: 'runs',
    title: 'Run by run',
    blocks: [
      {
        kind: 'prose',
        text: 'Times count from the injection. The strip shows detection, then the phases of the recovery, to its own scale.',
      },
      { kind: 'runs', groups },
    ],
  };
}

function entry(input: ReportInput, series: Series, record: RunRecord): RunEntry {
  const fate = fateOf(record);
  const strip = stripOf(record);
  const end =
    record.end === undefined || fate === 'no-vmf' || fate === 'one-vm' ? FATE_WORDS[fate] : END_WORDS[record.end];
  const where = record.point === undefined ? 'no fault' : `${record.point.at} on CPU ${record.point.cpu}`;
  const took = record.latencyMs === undefined ? '' : `, latency ${duration(record.latencyMs)}`;
  return {
    id: runAnchor(series, record),
    name: `${series.campaignName} ${runName(record)}`,
    end,
    class: FATE_CLASS[fate],
    detail: record.outcome === 'infra' ? (record.errorCode ?? '') : `${where}${took}`,
    ...(strip === undefined ? {} : { strip }),
    events: events(input, series, record),
  };
}

function stripOf(record: RunRecord): Strip | undefined {
  const { detectionMs, phases, latencyMs } = record;
  if (latencyMs === undefined) return undefined;
  const named = PHASES.map(({ key, name, class: colour }) => ({ ms: phases?.[key] ?? 0, class: colour, text: name }));
  const rest = latencyMs - named.reduce((sum, { ms }) => sum + ms, 0);
  return {
    parts: [
      { ms: detectionMs ?? 0, class: 'detect', text: 'detection' },
      ...named,
      { ms: rest, class: 'calm', text: 'other' },
    ].filter(({ ms }) => ms > 0.005),
  };
}

function events(input: ReportInput, series: Series, record: RunRecord): RunEvent[] {
  const { point, failures, latencyMs, detectionMs, outageMs, outsideOutageMs, vms, newVm, cause, evidence } = record;
  const list: RunEvent[] = [];
  if (point !== undefined) {
    const call = point.hypercall === undefined ? '' : `, in ${point.hypercall}`;
    list.push({
      atMs: 0,
      title: 'injected',
      class: 'bad',
      text: [
        `${point.what}, CPU ${point.cpu} (${point.vcpu}) at `,
        { kind: 'code', text: point.at },
        `, ${point.steps} instructions in${call}`,
      ],
    });
    if (point.backtrace.length > 0)
      list.push({ title: 'backtrace', class: 'calm', text: { kind: 'code', text: point.backtrace.join(' ← ') } });
  }
  for (const [index, failure] of failures.entries()) {
    const place = failure.at === undefined || failure.at === '0x0' ? '' : ` at ${failure.at}`;
    const cpu = failure.cpu === undefined ? '' : `, CPU ${failure.cpu}`;
    list.push({
      atMs: index === 0 ? (detectionMs ?? failure.afterMs) : failure.afterMs,
      title: index === 0 ? 'detected' : 'failed again',
      class: index === 0 ? 'detect' : 'bad',
      text: `${failure.kind}: ${failure.summary}${cpu}${place}`,
    });
    if (index === 0 && latencyMs !== undefined) list.push(resumed(record, latencyMs, detectionMs ?? failure.afterMs));
  }
  if (outageMs !== undefined || outsideOutageMs !== undefined) {
    const seen = outsideOutageMs === undefined ? '' : `; seen outside: ${duration(outsideOutageMs)}`;
    list.push({
      title: 'outage',
      class: 'calm',
      text: `${outageMs === undefined ? 'not measured' : duration(outageMs)}${seen}`,
    });
  }
  for (const vm of vms) {
    const well = vm.alive && vm.intact;
    const how = well
      ? 'alive, work intact'
      : `${vm.alive ? 'alive' : 'not alive'}, ${vm.intact ? 'intact' : 'work not intact'}${vm.reason === undefined ? '' : `: ${vm.reason}`}`;
    list.push({
      title: vm.name,
      class: well ? 'good' : 'bad',
      text: `${vm.kind === 'dom0' ? 'PrivVM' : vm.kind.toUpperCase()}, ${vm.work}: ${how}`,
    });
  }
  if (newVm !== undefined)
    list.push({
      title: 'new VM',
      class: newVm.ok ? 'good' : 'bad',
      text: newVm.ok ? 'created, and works' : `not created: ${newVm.reason ?? 'unknown'}`,
    });
  if (cause !== undefined) list.push({ title: 'cause', class: FATE_CLASS[fateOf(record)], text: cause });
  if (evidence.length > 0)
    list.push({
      title: 'evidence',
      class: 'calm',
      text: evidence.flatMap((path, index): Inline[] => [
        ...(index === 0 ? [] : [', ']),
        { kind: 'file', text: path, href: input.evidencePath(series.campaign, path) },
      ]),
    });
  list.push({
    title: 'again',
    class: 'calm',
    text: { kind: 'code', text: `ninelives campaign rerun ${series.campaign.dir} ${runName(record)}` },
  });
  return list;
}

function resumed({ phases }: RunRecord, latencyMs: number, detectedMs: number): RunEvent {
  const parts = PHASES.flatMap(({ key, name }) =>
    phases?.[key] === undefined ? [] : [`${name} ${duration(phases[key])}`],
  );
  return {
    atMs: detectedMs + latencyMs,
    title: 'resumed',
    class: 'good',
    text: `latency ${duration(latencyMs)}${parts.length === 0 ? '' : `: ${parts.join(', ')}`}`,
  };
}
