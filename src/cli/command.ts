/** What a command is: a name, its options, and a function that parses, calls and prints. */
import type { ColorMode, Paint } from '../report/style.js';
import type { OptionSpec, Typed } from './options.js';
import type { Terminal } from './terminal.js';

/** All that a command sees of the world outside. */
export interface Context {
  readonly typed: Typed;
  readonly json: boolean;
  readonly colors: ColorMode;
  readonly paint: Paint;
  /** Columns to print in. */
  readonly width: number;
  readonly terminal: Terminal;
  /** Aborted by Ctrl-C; its reason is NL_INTERRUPTED. */
  readonly signal: AbortSignal;
  /** Prints lines of result on stdout. Ends the live line of progress first. */
  print(lines: readonly string[]): void;
  /** Prints one object as one line of JSON on stdout. */
  printJson(value: object): void;
}

export interface Command {
  /** One word, or two: `demo`, `profile make`. */
  readonly name: string;
  /** Placeholders of what follows the name: `<capsule>` must be there, `[box]` may; `...` at the end: any number more. */
  readonly positional: readonly string[];
  readonly summary: string;
  readonly options: readonly OptionSpec[];
  readonly examples: readonly string[];
  /**
   * @returns the exit status: 0 when all held, 1 when the target failed
   * @throws NinelivesError when we failed
   */
  run(context: Context): Promise<number>;
}
