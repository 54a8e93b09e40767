/**
 * What is kept of a run of a campaign: one line of the run log. The schema is the format's only definition; `docs/reference/campaign-log.md`
 * describes it for people. Times ending in `Ms` are milliseconds of the host's monotonic clock.
 */
import { z } from 'zod';

const choice = z.record(z.string(), z.json());

/** A run's random choices, made before the campaign starts. */
export const plannedSchema = z.object({
  /** The fault's name, such as `register`. */
  fault: z.string(),
  faultChoice: choice,
  /** The trigger's name, such as `timer`. */
  trigger: z.string(),
  triggerChoice: choice,
});

const pointSchema = z.object({
  cpu: z.number(),
  vcpu: z.string(),
  /** `function+offset`. */
  at: z.string(),
  hypercall: z.string().optional(),
  backtrace: z.array(z.string()),
  steps: z.number(),
  /** What the fault did, such as "bit 12 of rbx flipped". */
  what: z.string(),
});

const failureSchema = z.object({
  kind: z.string(),
  cpu: z.number().optional(),
  at: z.string().optional(),
  summary: z.string(),
  /** From the injection to the stop of the machine. */
  afterMs: z.number(),
});

const vmSchema = z.object({
  name: z.string(),
  kind: z.enum(['dom0', 'pv', 'pvh']),
  /** `files`, `blkbench`, `unixbench`, `netbench`, `mix`. */
  work: z.string(),
  alive: z.boolean(),
  intact: z.boolean(),
  /** Why it is not alive or not intact. */
  reason: z.string().optional(),
});

/**
 * How a detected failure ended, best first:
 * - `no-vmf`: no VM affected, the hypervisor works;
 * - `one-vm`: a success too, one AppVM is affected;
 * - `vms`: more than one AppVM is affected;
 * - `privvm`: the PrivVM is affected;
 * - `no-new-vm`: the VMs live, but none can be created any more;
 * - `failed-again`: the hypervisor failed again and was not brought back;
 * - `not-recoverable`: the mechanism refused its own plan, or could not make one.
 */
export const RECOVERY_ENDS = [
  'no-vmf',
  'one-vm',
  'vms',
  'privvm',
  'no-new-vm',
  'failed-again',
  'not-recoverable',
] as const;
export type RecoveryEnd = (typeof RECOVERY_ENDS)[number];

export const runRecordSchema = z.object({
  /** Number of the run in its campaign, from 0. */
  run: z.number().int().min(0),
  /** Of a campaign with variants only: which of them, from 0. The same run of all variants has the same plan. */
  variant: z.number().int().min(0).optional(),
  /** ISO 8601. */
  startedAt: z.string(),
  tookMs: z.number(),
  planned: plannedSchema,
  /**
   * `not-reached`: the trigger's point was not reached, nothing was injected. `not-manifested`: injected, and nothing happened.
   * `sdc`: silent data corruption, a VM is affected and nothing was detected. `detected`: see `end`. `infra`: we failed; it
   * counts for nothing. `golden`: a run without a fault, as it should be. `false-alarm`: a run without a fault in which something was seen.
   */
  outcome: z.enum(['not-reached', 'not-manifested', 'sdc', 'detected', 'infra', 'golden', 'false-alarm']),
  /** Of a detected failure only. */
  end: z.enum(RECOVERY_ENDS).optional(),
  point: pointSchema.optional(),
  /** Each failure that was seen, in order; the first is the injected one's. */
  failures: z.array(failureSchema),
  /** Of the first recovery: from the stop of the machine to its resumption. */
  latencyMs: z.number().optional(),
  /** Its phases: `captureMs`, `settleMs`, `planMs`, `checkMs`, `commitMs`, `resumeMs`. */
  phases: z.record(z.string(), z.number()).optional(),
  /** From the injection to the stop of the machine. */
  detectionMs: z.number().optional(),
  /** From the moment the broken CPU ran on to the resumption, by the host's clock. */
  outageMs: z.number().optional(),
  /** The longest time without an answer that the outside sender saw around the failure; NetBench setups only. */
  outsideOutageMs: z.number().optional(),
  vms: z.array(vmSchema),
  /** Whether a new VM could be created and did its work; absent where it was not tried. */
  newVm: z.object({ ok: z.boolean(), reason: z.string().optional() }).optional(),
  /** One line: why the run is neither a success without VM failure nor harmless. */
  cause: z.string().optional(),
  /** Of `infra`: the error's code. */
  errorCode: z.string().optional(),
  /** Files of evidence, relative to the campaign's folder. */
  evidence: z.array(z.string()),
  /**
   * Share of the time of the observation in which the box wanted to run and its host did not let it, in 0..1. A box that waits much
   * runs in slow motion: its verdict is worth less.
   */
  hostWaited: z.number().optional(),
  /** Where the time of the run went, in milliseconds by phase. */
  spentMs: z.record(z.string(), z.number()),
});

export type RunRecord = z.infer<typeof runRecordSchema>;
export type Planned = z.infer<typeof plannedSchema>;

/** A success in the sense of NiLiHype: at most one AppVM affected, and the hypervisor works. */
export const isSuccess = (record: RunRecord): boolean => record.end === 'no-vmf' || record.end === 'one-vm';
