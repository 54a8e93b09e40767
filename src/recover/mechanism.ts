/** From a frozen machine to a checked plan. Pure: the same view gives the same plan, always. */
import { type CpuState, readSituation, type Situation } from '../xen/cpus.js';
import { attempt } from '../xen/damage.js';
import { tableDefects } from '../xen/descriptors.js';
import { listDomains } from '../xen/domains.js';
import type { EntryFacts } from '../xen/entry.js';
import { FrameWords } from '../xen/frames.js';
import { heapLocks, staticLocks } from '../xen/locks.js';
import { isAllocatorLocked } from '../xen/page-heap.js';
import { PageTables } from '../xen/page-tables.js';
import { takenOut } from '../xen/taken-out.js';
import type { Xen } from '../xen/xen.js';
import { PlanBuilder } from './builder.js';
import { auditPlan } from './check.js';
import type { CpuRecord, Plan, StepRecord } from './plan.js';
import type { Step, StepContext } from './step.js';

export interface Mechanism {
  readonly name: string;
  readonly steps: readonly Step[];
}

export interface PlanOptions {
  /** Names of steps that are left out: the ablation study. `place-cpus` cannot be. */
  readonly without?: ReadonlySet<string>;
  /** Look for everything, also for what no abandoned thread can have touched: an audit, and the rehearsal of a guard. */
  readonly scope?: 'touched' | 'everything';
  /** Text was compared since the machine stopped, and is what it was. Default false: it is compared. */
  readonly textIsSound?: boolean;
  /** A clock for the duration of steps, in milliseconds. Replay gives none, so that plans compare equal. */
  readonly now?: () => number;
}

/** Grant entries are the most numerous locks by far, and only this code takes them. */
const GRANT_CODE = /grant|gnt|gref|active_entry|acquire_/;

export function makePlan(mechanism: Mechanism, xen: Xen, facts: EntryFacts, options: PlanOptions = {}): Plan {
  const { without, scope = 'touched', textIsSound = false, now = () => 0 } = options;
  const plan = new PlanBuilder(xen);
  const read = attempt(() => {
    // CPUs as they were. Domains and vCPUs as the plan leaves them, so that what a step repairs of one is what the next ones see.
    const seen = readSituation(xen, facts, listDomains(plan.xen));
    const damaged = tableDefects(xen, seen.cpus);
    return { damaged, situation: takenOut(xen, seen, new Set(damaged.map(({ cpu }) => cpu))) };
  });
  if ('damage' in read) return noPlan(mechanism, `what runs where cannot be told: ${read.damage}`);
  const { situation, damaged } = read.value;
  const abandoned = situation.cpus.filter((cpu) => cpu.where === 'xen');
  const wasIn = (pattern: RegExp): boolean =>
    scope === 'everything' || abandoned.some((cpu) => cpu.backtrace.some((entry) => pattern.test(entry.text)));
  let locks: StepContext['locks'] | undefined;
  let tables: StepContext['pageTables'] | undefined;
  const givenUp = new Map<string, string>();
  const context: StepContext = {
    plan,
    xen: plan.xen,
    frozen: xen,
    scope,
    textIsSound,
    facts,
    situation,
    tableDefects: damaged,
    abandoned,
    wasIn,
    get locks() {
      locks ??= allLocks(plan, situation, wasIn(GRANT_CODE));
      return locks;
    },
    get pageTables() {
      tables ??= allTables(plan.xen, xen);
      return tables;
    },
    destinations: new Map(),
    givenUp,
    notes: new Map(),
  };
  const steps: StepRecord[] = [];
  const record = (step: Pick<Step, 'name' | 'removes' | 'source'>, run: () => void): void => {
    const findings = plan.begin(step.name);
    const editsBefore = plan.edits.length;
    const startedMs = now();
    // Damage that one step stumbles over is not to keep the others from their repairs; the audit judges what is left.
    const outcome = attempt(run);
    if ('damage' in outcome) {
      plan.found(`given up: ${outcome.damage}`);
      if (!plan.lacksPages) givenUp.set(step.name, outcome.damage);
    }
    const { name, removes, source } = step;
    steps.push({
      name,
      removes,
      source,
      findings,
      edits: plan.edits.length - editsBefore,
      durationMs: now() - startedMs,
    });
  };
  for (const step of mechanism.steps) {
    if (!without?.has(step.name)) record(step, () => step.run(context));
  }
  record(auditPlan, () => auditPlan.run(context));
  return {
    mechanism: mechanism.name,
    edits: plan.edits,
    steps,
    cpus: situation.cpus.map((cpu) => cpuRecord(context, cpu)),
    problems: plan.problems,
  };
}

/** They are looked for when the first step asks for them, where the steps before it have repaired what leads to them. */
function allLocks(plan: PlanBuilder, { domains }: Situation, grantEntries: boolean): StepContext['locks'] {
  const leftOut = (whose: string, why: string): void => plan.problem(`locks of ${whose} cannot be found: ${why}`);
  const choice = { grantEntries, freeLines: false };
  const locks = attempt(() => ({ static: staticLocks(plan.xen), heap: heapLocks(plan.xen, domains, choice, leftOut) }));
  if ('value' in locks) return locks.value;
  plan.problem(`where locks are cannot be told: ${locks.damage}`);
  return { static: [], heap: [] };
}

/** Free memory can be skipped unless a thread was dropped while it held the allocator's lock. */
const allTables = (xen: Xen, frozen: Xen): StepContext['pageTables'] =>
  new PageTables(xen, new FrameWords(xen)).list(isAllocatorLocked(frozen) ? 'all' : 'allocated');

function cpuRecord({ notes, abandoned }: StepContext, state: CpuState): CpuRecord {
  const isAbandoned = abandoned.includes(state);
  const remarks = notes.get(state.cpu) ?? [];
  return {
    cpu: state.cpu,
    where: state.where === 'halted' ? 'idle' : state.where,
    vcpu: state.current.name,
    ...('name' in state.hypercall ? { hypercall: state.hypercall.name } : {}),
    backtrace: state.backtrace.map((entry) => entry.text),
    action: isAbandoned ? ['abandoned', ...remarks].join('; ') : 'left alone',
    abandoned: isAbandoned,
    retried: remarks.some((remark) => remark.endsWith('is retried')),
  };
}

function noPlan({ name }: Mechanism, message: string): Plan {
  return { mechanism: name, edits: [], steps: [], cpus: [], problems: [{ step: 'situation', message }] };
}
