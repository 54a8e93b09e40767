/**
 * Progress for people: on a terminal one live line (spinner, elapsed time, detail) that turns into a tick when its step
 * ends; elsewhere plain lines, few enough for a log. All on stderr, so that results on stdout can be piped.
 */
import type { Progress } from '../common/progress.js';
import {
  type ColorMode,
  cut,
  duration,
  type Paint,
  padEnd,
  paint,
  stripColors,
  visibleLength,
} from '../report/style.js';

/** What a terminal needs of a stream; `process.stderr` is one. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface TerminalOptions {
  readonly colors: ColorMode;
  /** Milliseconds that never go back; tests put their own clock here. */
  readonly now?: () => number;
}

const SPINNER = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const REDRAW_MS = 100;
/** Plain output repeats a step's detail at most this often, so that a boot leaves a dozen lines and not a thousand. */
const PLAIN_DETAIL_MS = 10_000;
/** Steps shorter than this are not worth a line that says how long they took. */
const WORTH_TELLING_MS = 1000;

export interface Terminal extends Progress, Disposable {
  /** Prints a line above the live line. */
  line(text: string): void;
  /** Shows these lines below all others, in place of those it showed before; none takes them away. Elsewhere than on a terminal: nothing. */
  block(lines: readonly string[]): void;
  /** Ends the current step, as done. */
  done(): void;
  /** Ends the current step, as not done. */
  failed(): void;
}

/** Whether and how to colour, by https://no-color.org and what the stream is. */
export function colorMode(output: Output, environment: NodeJS.ProcessEnv): ColorMode {
  const { NO_COLOR, FORCE_COLOR, TERM } = environment;
  if (NO_COLOR !== undefined && NO_COLOR !== '') return 'plain';
  if (FORCE_COLOR !== undefined && FORCE_COLOR !== '' && FORCE_COLOR !== '0') return 'color';
  return output.isTTY === true && TERM !== 'dumb' ? 'color' : 'plain';
}

/** The terminal for `output`: live when it is a TTY, plain otherwise. */
export function openTerminal(output: Output, options: TerminalOptions): Terminal {
  const now = options.now ?? (() => performance.now());
  return output.isTTY === true
    ? new LiveTerminal(output, paint(options.colors), now)
    : new PlainTerminal(output, paint(options.colors), now);
}

interface Step {
  readonly label: string;
  readonly startedMs: number;
  detail: string;
}

class LiveTerminal implements Terminal {
  private current: Step | undefined;
  private timer: NodeJS.Timeout | undefined;
  private frame = 0;
  private shown: readonly string[] = [];

  constructor(
    private readonly output: Output,
    private readonly colors: Paint,
    private readonly now: () => number,
  ) {}

  step(label: string): void {
    this.done();
    this.current = { label, startedMs: this.now(), detail: '' };
    this.timer = setInterval(() => this.draw(), REDRAW_MS);
    // The line must not keep the process alive by itself.
    this.timer.unref();
    this.draw();
  }

  detail(text: string): void {
    if (this.current !== undefined) this.current.detail = text;
  }

  line(text: string): void {
    const { shown } = this;
    this.block([]);
    this.output.write(`${this.current === undefined ? '' : '\r\x1b[2K'}${text}\n`);
    this.draw();
    this.block(shown);
  }

  block(lines: readonly string[]): void {
    if (lines.length > 0) this.done();
    const room = (this.output.columns ?? 80) - 1;
    const up = this.shown.length === 0 ? '' : `\r\x1b[${this.shown.length}A\x1b[0J`;
    // A line that the terminal would break makes two, and the next block would begin too low.
    const fitting = lines.map((line) => (visibleLength(line) <= room ? line : cut(stripColors(line), room)));
    this.shown = lines;
    if (up !== '' || lines.length > 0) this.output.write(up + fitting.map((line) => `${line}\n`).join(''));
  }

  done(): void {
    this.end(this.colors.green('✓'));
  }

  failed(): void {
    this.end(this.colors.red('✗'));
  }

  [Symbol.dispose](): void {
    this.done();
  }

  private end(mark: string): void {
    clearInterval(this.timer);
    const step = this.current;
    if (step === undefined) return;
    this.current = undefined;
    const took = this.now() - step.startedMs;
    this.output.write(`\r\x1b[2K${mark} ${padEnd(step.label, 44)} ${this.colors.dim(duration(took))}\n`);
  }

  private draw(): void {
    if (this.current === undefined) return;
    const { label, startedMs, detail } = this.current;
    const spinner = SPINNER[this.frame++ % SPINNER.length] ?? '';
    const elapsed = `${((this.now() - startedMs) / 1000).toFixed(0)} s`;
    const room = (this.output.columns ?? 80) - 1;
    const head = cut(`${padEnd(label, 44)} ${elapsed}`, room - 2);
    const tail = cut(detail === '' ? '' : `  ${detail}`, room - 2 - head.length);
    this.output.write(`\r\x1b[2K${this.colors.cyan(spinner)} ${head}${this.colors.dim(tail)}`);
  }
}

class PlainTerminal implements Terminal {
  private current: Step | undefined;
  private toldAtMs = 0;

  constructor(
    private readonly output: Output,
    private readonly colors: Paint,
    private readonly now: () => number,
  ) {}

  step(label: string): void {
    this.done();
    this.current = { label, startedMs: this.now(), detail: '' };
    this.toldAtMs = this.now();
    this.line(label);
  }

  detail(text: string): void {
    const step = this.current;
    if (step === undefined || step.detail === text || this.now() - this.toldAtMs < PLAIN_DETAIL_MS) return;
    step.detail = text;
    this.toldAtMs = this.now();
    this.line(`  ${text}`);
  }

  line(text: string): void {
    this.output.write(`${text}\n`);
  }

  block(): void {}

  done(): void {
    this.end('done in');
  }

  failed(): void {
    this.end(this.colors.red('failed after'));
  }

  [Symbol.dispose](): void {
    this.done();
  }

  private end(verb: string): void {
    const step = this.current;
    if (step === undefined) return;
    this.current = undefined;
    const took = this.now() - step.startedMs;
    if (took >= WORTH_TELLING_MS || verb !== 'done in') this.line(`  ${verb} ${duration(took)}`);
  }
}
