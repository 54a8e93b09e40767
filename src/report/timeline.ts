/**
 * The story of one recovery, told top-down along a line of time: what broke, how it was seen, what each CPU was doing,
 * what was repaired, how long it took, who survived. Pure: a value in, lines of text out.
 */
import type { Failure } from '../detect/failure.js';
import type { Recovery } from '../recover/outcome.js';
import type { CpuRecord, Plan, StepRecord } from '../recover/plan.js';
import { phaseBar } from './phase-bar.js';
import type { Story, VmVerdict } from './story.js';
import {
  type ColorMode,
  count,
  cut,
  duration,
  type Paint,
  padEnd,
  padStart,
  paint,
  visibleLength,
  wrap,
} from './style.js';
import { table } from './table.js';

export interface TimelineOptions {
  /** Columns to print in; below 60 is taken as 60. */
  readonly width: number;
  readonly colors: ColorMode;
}

/** Findings of one step that are shown; the capsule has them all. */
const FINDINGS_SHOWN = 4;
/** Frames of a backtrace that are shown, innermost first. */
const FRAMES_SHOWN = 3;
const TIME_WIDTH = 9;

export function timeline(story: Story, options: TimelineOptions): string[] {
  const teller = new Teller(Math.max(60, options.width), paint(options.colors));
  return teller.tell(story);
}

/** A recovery alone, as a guard tells it: time counts from the stop of the machine. */
export function recoveryLines(recovery: Recovery, options: TimelineOptions): string[] {
  const teller = new Teller(Math.max(60, options.width), paint(options.colors));
  return teller.tellRecovery(recovery, recovery.failure.detectedAtMs).finished();
}

/** A failure and the plan that was made of it, without any time: what a replay shows. */
export function planLines(failure: Failure, plan: Plan, options: TimelineOptions): string[] {
  const teller = new Teller(Math.max(60, options.width), paint(options.colors));
  return teller.tellPlan(failure, plan).finished();
}

class Teller {
  private readonly lines: string[] = [];
  /** Columns left of the text: time, line of time, a space on each side. */
  private readonly indent = TIME_WIDTH + 5;
  private readonly room: number;

  constructor(
    width: number,
    private readonly p: Paint,
  ) {
    this.room = width - this.indent;
  }

  tell(story: Story): string[] {
    const { recovery, injection } = story;
    const brokenAtMs = injection?.atMs ?? recovery?.failure.detectedAtMs;
    this.lines.push(this.p.dim(story.setting), '');
    if (injection !== undefined) {
      this.event(0, 'broken', 'red', `CPU ${injection.cpu} at ${injection.at}: ${injection.what}`);
      this.gap();
    }
    if (recovery === undefined) {
      this.event(undefined, 'not detected', 'red', 'no failure was seen in time');
      this.gap();
    } else {
      this.tellRecovery(recovery, brokenAtMs ?? recovery.failure.detectedAtMs);
      this.gap();
    }
    if (story.outageMs !== undefined) {
      this.event(story.outageMs, 'back', 'green', `guests run again after an outage of ${duration(story.outageMs)}`);
      this.gap();
    }
    this.end(story);
    if (recovery?.capsule !== undefined) this.lines.push('', this.p.dim(`capsule: ${recovery.capsule}`));
    return this.lines;
  }

  /** @param brokenAtMs host-monotonic milliseconds from which time is counted */
  tellRecovery({ failure, plan, phases, latencyMs, result }: Recovery, brokenAtMs: number): this {
    const detectedMs = failure.detectedAtMs - brokenAtMs;
    this.tellPlan(failure, plan, detectedMs);
    this.gap();
    if (result === 'resumed') this.event(detectedMs + latencyMs, 'resumed', 'green', `latency ${duration(latencyMs)}`);
    else this.event(undefined, 'refused', 'red', `not recoverable by ${plan.mechanism}; the machine stays frozen`);
    for (const line of phaseBar(phases, Math.min(this.room, 80), this.p)) this.text(line);
    return this;
  }

  tellPlan(failure: Failure, plan: Plan, detectedMs?: number): this {
    const stalled = failure.stalledMs === undefined ? '' : ` (no progress for ${duration(failure.stalledMs)})`;
    this.event(detectedMs, `detected: ${failure.kind}`, 'yellow', `${failure.summary}${stalled}`);
    this.gap();
    this.event(undefined, 'frozen', 'blue', this.frozen(plan));
    this.cpus(plan.cpus);
    this.gap();
    this.event(undefined, plan.mechanism, 'cyan', this.repaired(plan));
    this.steps(plan.steps);
    for (const problem of plan.problems) this.text(`${this.p.red('✗')} ${problem.step}: ${problem.message}`);
    return this;
  }

  finished(): string[] {
    return this.lines;
  }

  private frozen(plan: Plan): string {
    const abandoned = plan.cpus.filter((cpu) => cpu.abandoned).length;
    const retried = plan.cpus.filter((cpu) => cpu.retried).length;
    const alone = plan.cpus.length - abandoned;
    return `${count(plan.cpus.length, 'CPU')}: ${abandoned} abandoned, ${retried} retried, ${alone} left alone`;
  }

  private cpus(cpus: readonly CpuRecord[]): void {
    const vcpuWidth = Math.max(0, ...cpus.map((cpu) => cpu.vcpu.length));
    const doing = (cpu: CpuRecord): string =>
      cpu.where === 'xen' ? (cpu.hypercall ?? 'in Xen') : cpu.where === 'idle' ? 'idle' : 'in the guest';
    const doingWidth = Math.max(0, ...cpus.map((cpu) => doing(cpu).length));
    for (const cpu of cpus) {
      const head = `CPU ${padStart(String(cpu.cpu), 2)}  ${padEnd(cpu.vcpu, vcpuWidth)}  ${padEnd(doing(cpu), doingWidth)}`;
      this.hanging(`${head}  `, cpu.action, cpu.abandoned ? this.p.yellow : this.p.dim);
      const frames = cpu.backtrace.slice(0, FRAMES_SHOWN).join(' ← ');
      const more = cpu.backtrace.length > FRAMES_SHOWN ? ' ← …' : '';
      if (frames !== '') this.text(`        ${this.p.dim(cut(frames + more, this.room - 8))}`);
    }
  }

  private repaired(plan: Plan): string {
    const working = plan.steps.filter((step) => step.edits > 0 || step.findings.length > 0).length;
    const calls = plan.edits.filter((edit) => edit.kind === 'call').length;
    const called = calls === 0 ? '' : `, ${count(calls, 'call')} of Xen's own functions`;
    return `${count(plan.edits.length, 'edit')} by ${working} of ${count(plan.steps.length, 'step')}${called}`;
  }

  private steps(steps: readonly StepRecord[]): void {
    const nameWidth = Math.max(0, ...steps.map((step) => step.name.length));
    const idle: string[] = [];
    for (const step of steps) {
      if (step.edits === 0 && step.findings.length === 0) {
        idle.push(step.name);
        continue;
      }
      const edits = padStart(step.edits === 0 ? '–' : String(step.edits), 5);
      this.hanging(
        `${this.p.green('✓')} ${this.p.bold(padEnd(step.name, nameWidth))} ${edits}  `,
        step.removes,
        (text) => text,
      );
      for (const finding of step.findings.slice(0, FINDINGS_SHOWN)) {
        this.hanging(`    ${this.p.dim('·')} `, finding, this.p.dim);
      }
      const hidden = step.findings.length - FINDINGS_SHOWN;
      if (hidden > 0) this.text(this.p.dim(`    · and ${hidden} more`));
    }
    if (idle.length > 0) {
      for (const line of wrap(`nothing to repair: ${idle.join(', ')}`, this.room - 2))
        this.text(`  ${this.p.dim(line)}`);
    }
  }

  private end(story: Story): void {
    const good = story.verdict.kind === 'success';
    const color = good ? this.p.green : this.p.red;
    if (story.vms.length > 0) {
      const rows = vmTable(story.vms, this.room, this.p);
      for (const row of rows) this.text(row, ' ');
    }
    if (story.newVm !== undefined) {
      const told = story.newVm ? this.p.green('✓ a new VM was created') : this.p.red('✗ a new VM could not be created');
      this.text(told, ' ');
    }
    this.lines.push('');
    const words = wrap(`${story.verdict.kind}: ${story.verdict.summary}`, this.room + this.indent - 2);
    for (const [index, line] of words.entries()) {
      this.lines.push(color(this.p.bold(`${index > 0 ? ' ' : good ? '✓' : '✗'} ${line}`)));
    }
  }

  /** A point on the line of time. `atMs` counts from the failure; without it the clock of the box stands still. */
  private event(
    atMs: number | undefined,
    title: string,
    color: 'red' | 'yellow' | 'blue' | 'cyan' | 'green',
    text: string,
  ): void {
    const time = atMs === undefined ? '' : atMs === 0 ? '0' : `+${duration(atMs)}`;
    const [first = '', ...rest] = wrap(text, this.room - title.length - 2);
    const head = this.p[color](this.p.bold(title));
    this.lines.push(`${padStart(this.p.dim(time), TIME_WIDTH)}  ${this.p[color]('●')}  ${head}  ${first}`.trimEnd());
    for (const line of rest) this.text(`${' '.repeat(title.length + 2)}${line}`);
  }

  /** A line beside the line of time. */
  private text(text: string, line: '│' | ' ' = '│'): void {
    this.lines.push(`${' '.repeat(TIME_WIDTH)}  ${this.p.dim(line)}  ${text}`.trimEnd());
  }

  /** `text` after `head`; what does not fit goes on below it, under its own beginning. `text` is uncoloured. */
  private hanging(head: string, text: string, color: (text: string) => string): void {
    const headWidth = visibleLength(head);
    const beside = this.room - headWidth >= 24;
    const room = beside ? this.room - headWidth : this.room - 6;
    const indent = ' '.repeat(beside ? headWidth : 6);
    const [first = '', ...rest] = wrap(text, room);
    if (beside) this.text(head + color(first));
    else for (const line of [head.trimEnd(), indent + color(first)]) this.text(line);
    for (const line of rest) this.text(indent + color(line));
  }

  private gap(): void {
    this.text('');
  }
}

const KINDS: Readonly<Record<VmVerdict['kind'], string>> = {
  dom0: 'PrivVM (PV)',
  pv: 'AppVM (PV)',
  pvh: 'AppVM (PVH)',
};

/** @param width columns for the whole table; what does not fit is cut off the notes. */
function vmTable(vms: readonly VmVerdict[], width: number, p: Paint): string[] {
  const yes = (value: boolean): string => (value ? p.green('yes') : p.red('no'));
  const columns = [{ title: 'VM' }, { title: 'kind' }, { title: 'alive' }, { title: 'intact' }];
  const rows = table(
    columns,
    vms.map((vm) => [p.bold(vm.name), KINDS[vm.kind], yes(vm.alive), yes(vm.intact)]),
    p,
  );
  const tableWidth = Math.max(...rows.map(visibleLength));
  return rows.map((row, index) => {
    const note = cut(vms[index - 1]?.note ?? '', width - tableWidth - 2);
    return note === '' ? row : `${padEnd(row, tableWidth)}  ${p.dim(note)}`;
  });
}
