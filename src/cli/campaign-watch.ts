/**
 * Runs a campaign and shows how it goes: a status block that redraws itself on a terminal, one line a run elsewhere, one JSON
 * object for each event with `--json`.
 */
import { cpus } from 'node:os';
import { type CampaignEvent, continueCampaign } from '../campaign/campaign.js';
import { type Campaign, readCampaign } from '../campaign/folder.js';
import { runName } from '../campaign/plan.js';
import type { RunRecord } from '../campaign/record.js';
import { isNoteworthy } from '../campaign/run-record.js';
import { summarizeRecords } from '../campaign/summary.js';
import { EXIT, NinelivesError } from '../common/errors.js';
import { count, duration } from '../report/style.js';
import { failureLines, runLine, statusLines, statusObject, summaryLines } from './campaign-lines.js';
import type { Context } from './command.js';
import { usage } from './complain.js';
import type { OptionSpec } from './options.js';

export const JOBS_OPTION: OptionSpec = {
  name: 'jobs',
  value: 'n',
  summary: 'runs at the same time, each in a box of its own (default: one for each core, at most 4)',
};

export function parseJobs(text: string | undefined): number {
  if (text === undefined) return Math.max(1, Math.min(4, cpus().length));
  const jobs = /^\d+$/.test(text) ? Number(text) : 0;
  if (jobs < 1 || jobs > 64) throw usage(`--jobs is "${text}"`, 'give a whole number from 1 to 64, as in --jobs 2');
  return jobs;
}

const REDRAW_MS = 1000;
const FAILURES_SHOWN = 3;

/** @returns the command's exit status. @throws NL_RUNS_LOST when some runs have no result, NL_INTERRUPTED after Ctrl-C */
export async function runAndShow(
  dir: string,
  options: { readonly jobs: number; readonly versions: 'same' | 'any' },
  context: Context,
): Promise<number> {
  const { signal, json, print, printJson, paint, terminal, width } = context;
  const before = readCampaign(dir);
  for (const { line, kind, why } of before.damage) {
    terminal.line(paint.yellow(`line ${line} of the run log is ${kind} and does not count: ${why}`));
  }
  const show = new Show(before, options.jobs, context);
  let finished: Awaited<ReturnType<typeof continueCampaign>>;
  try {
    finished = await continueCampaign(
      dir,
      { jobs: options.jobs, signal, told: (event) => show.tell(event) },
      options.versions,
    );
  } catch (error) {
    show.end();
    const done = readCampaign(dir).records.length;
    if (!json && done > 0)
      terminal.line(`${count(done, 'run')} are kept; go on with: ninelives campaign resume ${dir}`);
    throw error;
  }
  show.end();
  const { campaign, ending } = finished;
  if (json) printJson({ event: 'ended', ending, ...statusObject(campaign) });
  else {
    print(['', ...statusLines(campaign, paint)]);
    const failures = failureLines(campaign.records, paint, width);
    if (failures.length > 0) print(['', paint.bold('what went wrong'), ...failures]);
    print([
      '',
      paint.dim(
        `look into a run: ninelives campaign show ${dir} RUN; do it again: ninelives campaign rerun ${dir} RUN`,
      ),
    ]);
  }
  if (ending === 'interrupted') {
    if (!json) terminal.line(goOn(dir));
    throw new NinelivesError('NL_INTERRUPTED', 'interrupted');
  }
  const { infraErrors } = summarizeRecords(campaign.records);
  if (infraErrors > 0) {
    throw new NinelivesError('NL_RUNS_LOST', `we failed in ${count(infraErrors, 'run')}, which have no result`, {
      fix: `do them again: ninelives campaign resume ${dir}`,
    });
  }
  return EXIT.ok;
}

function goOn(dir: string): string {
  const done = readCampaign(dir).records.length;
  const kept = done === 1 ? '1 run is kept' : `${done} runs are kept`;
  return `${kept}; go on with: ninelives campaign resume ${dir}`;
}

/** Draws what the events say. */
class Show {
  private readonly records: Map<string, RunRecord>;
  private readonly begunMs = performance.now();
  private readonly total: number;
  private doneHere = 0;
  private inFlight = 0;
  private readonly recent: RunRecord[] = [];
  private readonly timer: NodeJS.Timeout | undefined;
  private readonly steps = new Set<string>();
  private ready: boolean = false;

  constructor(
    campaign: Campaign,
    private readonly jobs: number,
    private readonly context: Context,
  ) {
    this.records = new Map(campaign.records.map((record) => [runName(record), record]));
    this.total = campaign.planned.length;
    if (context.json) {
      context.printJson({
        event: 'began',
        name: campaign.meta.name,
        dir: campaign.dir,
        planned: this.total,
        done: this.records.size,
      });
      return;
    }
    context.terminal.line(
      `${campaign.meta.name}: ${count(this.total - this.records.size, 'run')} to do in ${campaign.dir}`,
    );
    this.timer = setInterval(() => this.draw(), REDRAW_MS);
    this.timer.unref();
  }

  tell(event: CampaignEvent): void {
    if (event.kind === 'record') {
      this.records.set(runName(event.record), event.record);
      this.doneHere++;
      this.inFlight--;
      if (isNoteworthy(event.record)) this.recent.push(event.record);
    }
    if (event.kind === 'started') this.inFlight++;
    if (this.context.json) this.print(event);
    else this.write(event);
  }

  end(): void {
    clearInterval(this.timer);
    this.context.terminal.block([]);
  }

  private print(event: CampaignEvent): void {
    const { printJson } = this.context;
    switch (event.kind) {
      case 'record':
        printJson({ event: 'run', ...event.record });
        break;
      case 'started':
        printJson({ event: 'started', worker: event.worker, run: event.order.run, variant: event.order.variant });
        break;
      case 'progress':
        if (event.step) printJson({ event: 'progress', worker: event.worker, text: event.text });
        break;
      default: {
        const { kind, ...rest } = event;
        printJson({ event: kind, ...rest });
      }
    }
  }

  private write(event: CampaignEvent): void {
    const { terminal, paint } = this.context;
    switch (event.kind) {
      case 'progress':
        // Only the first box takes long enough to be worth a line.
        if (this.ready) break;
        if (event.step && !this.steps.has(event.text)) terminal.step(event.text);
        else if (!event.step) terminal.detail(event.text);
        this.steps.add(event.text);
        break;
      case 'ready':
        if (!this.ready) terminal.done();
        this.ready = true;
        break;
      case 'record':
        terminal.line(runLine(event.record, paint));
        this.draw();
        break;
      case 'worker-lost':
        terminal.line(paint.yellow(`worker ${event.worker} was lost: ${event.why}`));
        break;
      case 'warning':
        terminal.line(paint.yellow(event.text));
        break;
      case 'pruned':
        terminal.line(
          paint.dim(
            `evidence of ${count(event.folders, 'run')} (${mebibytes(event.bytes)}) was removed: the limit of the campaign file`,
          ),
        );
        break;
      case 'started':
        this.draw();
        break;
    }
  }

  private draw(): void {
    if (!this.ready) return;
    const { paint, terminal } = this.context;
    const done = this.records.size;
    const hours = (performance.now() - this.begunMs) / 3_600_000;
    const rate = this.doneHere / hours;
    const left = ((this.total - done) / rate) * 3_600_000;
    const pace = this.doneHere === 0 ? '' : `, ${Math.round(rate)} runs/h, ${duration(left)} to go`;
    const summary = summarizeRecords([...this.records.values()]);
    terminal.block([
      '',
      `${paint.bold(`${done} of ${this.total} runs`)}${pace}, ${this.inFlight} of ${this.jobs} workers busy`,
      ...summaryLines(summary, paint),
      ...this.recent.slice(-FAILURES_SHOWN).map((record) => runLine(record, paint)),
    ]);
  }
}

const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
