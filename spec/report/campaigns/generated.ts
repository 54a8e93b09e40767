/** Campaigns that were never run: records with values as real ones have them, the same for the same seed. */

import { campaignFileSchema } from '../../../src/campaign/file.js';
import type { Campaign } from '../../../src/campaign/folder.js';
import { metaSchema } from '../../../src/campaign/folder.js';
import { runsOf } from '../../../src/campaign/plan.js';
import { type RecoveryEnd, type RunRecord, runRecordSchema } from '../../../src/campaign/record.js';
import { Random } from '../../../src/common/random.js';

export interface Wanted {
  readonly name: string;
  readonly fault: 'failstop' | 'register' | 'code' | 'hang';
  readonly runs: number;
  readonly seed: number;
  /** Of the injected faults, in 0..1. */
  readonly detected: number;
  readonly sdc: number;
  /** Of the detected ones, in 0..1. */
  readonly noVmf: number;
  readonly oneVm: number;
  /** Runs in which we failed, in 0..1. */
  readonly infra: number;
}

export const GOOD: Wanted = {
  name: 'nilihype-failstop-3appvm',
  fault: 'failstop',
  runs: 200,
  seed: 7,
  detected: 1,
  sdc: 0,
  noVmf: 0.97,
  oneVm: 0.02,
  infra: 0.01,
};

const FUNCTIONS = [
  ['schedule', undefined],
  ['csched2_schedule', undefined],
  ['__do_softirq', undefined],
  ['do_mmu_update', 'mmu_update'],
  ['mod_l1_entry', 'mmu_update'],
  ['_spin_lock', 'grant_table_op'],
  ['gnttab_copy', 'grant_table_op'],
  ['do_event_channel_op', 'event_channel_op'],
  ['evtchn_send', 'event_channel_op'],
  ['timer_softirq_action', undefined],
  ['reprogram_timer', undefined],
  ['restore_all_guest', undefined],
  ['svm_vmexit_handler', undefined],
  ['get_page_type', 'mmuext_op'],
  ['do_multicall', 'multicall'],
  ['vlapic_ipi', undefined],
  ['do_IRQ', undefined],
  ['alloc_heap_pages', 'memory_op'],
  ['__bitmap_empty', undefined],
  ['some_function_of_nobody', undefined],
] as const;

const CAUSES: readonly (readonly [RecoveryEnd, (random: Random) => string])[] = [
  ['failed-again', (random) => `failed again after the recovery: page fault in Xen at 0xffff82d0${hex(random)}`],
  ['failed-again', (random) => `failed again after the recovery: BUG at sched/core.c:${random.integer(100, 2000)}`],
  ['privvm', () => 'dom0: stands still since the recovery'],
  [
    'not-recoverable',
    (random) => `check: list of d${random.integer(0, 3)}v0 is not closed at 0xffff8300${hex(random)}`,
  ],
  ['no-new-vm', () => 'no new VM: xl create ended with status 1'],
  ['vms', () => 'app1: stands still since the recovery; app2: wrong digest at step 12'],
];

const hex = (random: Random): string => random.integer(0x1000_0000, 0xffff_ffff).toString(16);

export function generatedCampaign(wanted: Wanted, dir = `results/${wanted.name}`): Campaign {
  const file = campaignFileSchema.parse({
    name: wanted.name,
    description: 'generated for tests; never run',
    runs: wanted.runs,
    seed: wanted.seed,
    box: { cpus: 8, memory: '8G' },
    fault: { type: wanted.fault === 'hang' ? 'failstop' : wanted.fault },
    trigger: { type: 'timer' },
  });
  const meta = metaSchema.parse({
    format: 1,
    name: wanted.name,
    createdAt: '2026-11-24T12:00:00.000Z',
    planDigest: '0123456789abcdef',
    jobs: 2,
    host: { cores: 2, memoryMiB: 16_000, model: 'Some Processor' },
    versions: {
      ninelives: '0.1.0',
      xen: '4.17.7+13-g2445b30a44-0+deb12u1',
      qemu: '7.2.22',
      kernel: '6.1.0-56-amd64',
      snapshot: 'a1b2c3d4',
    },
  });
  const records = Array.from({ length: wanted.runs }, (_, run) => generatedRecord(wanted, run));
  return { dir, file, text: '', meta, records, damage: [], planned: runsOf(file) };
}

export function generatedRecord(wanted: Wanted, run: number): RunRecord {
  const random = Random.forPart(wanted.seed, run);
  return runRecordSchema.parse(recordOf(wanted, run, random));
}

function recordOf(wanted: Wanted, run: number, random: Random): object {
  const base = {
    run,
    startedAt: new Date(Date.UTC(2026, 10, 24, 12, 0, run * 9)).toISOString(),
    tookMs: 6000 + random.integer(0, 5000),
    planned: {
      fault: wanted.fault,
      faultChoice: {},
      trigger: 'timer',
      triggerChoice: { delayMs: random.integer(500, 6000), steps: random.integer(0, 20_000) },
    },
    failures: [],
    evidence: [],
    spentMs: { restore: 700, run: 5000, verdict: 900 },
  };
  if (random.fraction() < wanted.infra)
    return {
      ...base,
      outcome: 'infra',
      vms: [],
      errorCode: 'NL_STUB_LOST',
      cause: `the stub closed the connection after ${random.integer(1, 90)} s`,
    };
  const [name, hypercall] = pickSkewed(random, FUNCTIONS);
  const cpu = random.integer(0, 7);
  const at = `${name}+0x${random.integer(1, 0x400).toString(16)}`;
  const point = {
    cpu,
    vcpu: `d${cpu % 4}v0`,
    at,
    ...(hypercall === undefined ? {} : { hypercall }),
    backtrace: [at, 'do_softirq+0x5a', 'lstar_enter+0x141'],
    steps: random.integer(0, 20_000),
    what: wanted.fault === 'failstop' ? 'program counter set to 0' : `bit ${random.integer(0, 63)} of rbx flipped`,
  };
  const chance = random.fraction();
  if (chance >= wanted.detected + wanted.sdc) return { ...base, point, outcome: 'not-manifested', vms: vms() };
  if (chance >= wanted.detected)
    return {
      ...base,
      point,
      outcome: 'sdc',
      vms: vms('app1'),
      cause: `app1: wrong digest at step ${random.integer(2, 90)}`,
      evidence: evidence(run),
    };
  return { ...base, point, ...recovery(wanted, run, cpu, random) };
}

function recovery(wanted: Wanted, run: number, cpu: number, random: Random): object {
  const hang = wanted.fault === 'hang' || (wanted.fault !== 'failstop' && random.fraction() < 0.15);
  const detectionMs = hang ? 220 + 180 * random.fraction() : 3 + 12 * random.fraction() ** 3;
  const phases = {
    captureMs: 1.5 + 2 * random.fraction(),
    settleMs: 0.2 * random.fraction(),
    planMs: 2 + 3 * random.fraction() + (random.fraction() < 0.12 ? 25 * random.fraction() : 0),
    checkMs: 0.4 + 0.5 * random.fraction(),
    commitMs: 0.8 + random.fraction(),
    resumeMs: 0.1 + 0.1 * random.fraction(),
  };
  const latencyMs = Object.values(phases).reduce((sum, ms) => sum + ms, 0) + 0.2;
  const failure = {
    kind: hang ? 'hang' : 'fatal-trap',
    cpu,
    at: '0x0',
    summary: hang ? 'no progress for 300 ms' : 'page fault in Xen at 0x0',
    afterMs: detectionMs,
  };
  const times = {
    detectionMs,
    latencyMs,
    phases,
    outageMs: detectionMs + latencyMs,
    outsideOutageMs: detectionMs + latencyMs + 2,
  };
  const chance = random.fraction();
  const well = { outcome: 'detected', failures: [failure], ...times, newVm: { ok: true } };
  if (chance < wanted.noVmf) return { ...well, end: 'no-vmf', vms: vms() };
  if (chance < wanted.noVmf + wanted.oneVm) {
    const name = random.pick(['app1', 'app2']);
    return {
      ...well,
      end: 'one-vm',
      vms: vms(name),
      cause: `${name}: stands still since the recovery`,
      evidence: evidence(run),
    };
  }
  const [end, cause] = pickSkewed(random, CAUSES);
  const again = {
    kind: 'fatal-trap',
    cpu,
    at: 'schedule+0x31',
    summary: 'page fault in Xen at 0x18',
    afterMs: detectionMs + latencyMs + 40,
  };
  return {
    ...well,
    end,
    failures: end === 'failed-again' ? [failure, again] : [failure],
    vms: vms(...(end === 'vms' ? ['app1', 'app2'] : end === 'privvm' ? ['dom0'] : [])),
    newVm: end === 'no-new-vm' ? { ok: false, reason: 'xl create ended with status 1' } : { ok: end === 'vms' },
    cause: cause(random),
    evidence: evidence(run),
  };
}

const evidence = (run: number): string[] => {
  const folder = `evidence/run-${String(run).padStart(6, '0')}`;
  return [`${folder}/failure-0001.capsule`, `${folder}/end.txt`];
};

const vms = (...affected: readonly string[]): object[] =>
  (
    [
      ['dom0', 'dom0', 'files'],
      ['app1', 'pv', 'unixbench'],
      ['app2', 'pv', 'netbench'],
    ] as const
  ).map(([name, kind, work]) => {
    const well = !affected.includes(name);
    return {
      name,
      kind,
      work,
      alive: well,
      intact: well,
      ...(well ? {} : { reason: 'stands still since the recovery' }),
    };
  });

/** The first of the list are picked more often. */
const pickSkewed = <T>(random: Random, items: readonly T[]): T =>
  items[Math.floor(random.fraction() ** 1.6 * items.length)]!;
