/** The command line as a whole: which commands there are, how one is found and run, how its errors leave. */
import { type CAC, type Command as CacCommand, cac } from 'cac';
import { EXIT, type NinelivesError } from '../common/errors.js';
import { nearest } from '../common/nearest.js';
import { type ColorMode, paint } from '../report/style.js';
import type { Command, Context } from './command.js';
import { COMMANDS } from './commands/index.js';
import { asNinelivesError, errorLines, errorObject, statusOf, usage } from './complain.js';
import type { OptionSpec, Typed } from './options.js';
import { colorMode, type Output, openTerminal } from './terminal.js';

/** What the program is given to run in; tests give their own. */
export interface World {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly environment: NodeJS.ProcessEnv;
  readonly version: string;
  /** Starts to listen for Ctrl-C; `told` is called at the first one. */
  interrupts(told: () => void): Disposable & { readonly signal: AbortSignal };
}

const GLOBAL_OPTIONS: readonly OptionSpec[] = [
  { name: 'json', summary: 'print JSON instead of text' },
  { name: 'help', summary: 'show this help' },
  { name: 'version', summary: 'show the version' },
];

/** Runs the command line `given` (without node and script; `-o` is short for `--out`) and returns the exit status. Never throws. */
export async function run(given: readonly string[], world: World, commands = COMMANDS): Promise<number> {
  const argv = given.map((word) => (word === '-o' ? '--out' : word));
  const json = argv.includes('--json');
  const errorColors = paint(colorMode(world.stderr, world.environment));
  const complain = (error: NinelivesError): number => {
    if (json) world.stdout.write(`${JSON.stringify(errorObject(error))}\n`);
    else world.stderr.write(`${errorLines(error, errorColors).join('\n')}\n`);
    if (world.environment.NL_DEBUG) world.stderr.write(`${error.stack ?? ''}\n${describeCause(error.cause)}`);
    return statusOf(error);
  };
  try {
    const found = find(argv, world, commands);
    return found === undefined ? EXIT.ok : await execute(found.command, found.typed, world, json);
  } catch (error) {
    return complain(asNinelivesError(error));
  }
}

async function execute(command: Command, typed: Typed, world: World, json: boolean): Promise<number> {
  const colors: ColorMode = json ? 'plain' : colorMode(world.stdout, world.environment);
  using terminal = openTerminal(world.stderr, { colors: colorMode(world.stderr, world.environment) });
  using interrupt = world.interrupts(() => terminal.line('stopping; press Ctrl-C again to stop at once'));
  const context: Context = {
    typed,
    json,
    colors,
    paint: paint(colors),
    width: Math.min(world.stdout.columns ?? 100, 120),
    terminal,
    signal: interrupt.signal,
    print: (lines) => {
      terminal.done();
      world.stdout.write(lines.map((line) => `${line}\n`).join(''));
    },
    printJson: (value) => world.stdout.write(`${JSON.stringify(value)}\n`),
  };
  try {
    return await command.run(context);
  } catch (error) {
    terminal.failed();
    // What breaks after Ctrl-C breaks because of it: a closed socket then is no lost link.
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}

/** The command that `argv` names, with what was typed. `undefined` when help or version was asked for, and printed. */
function find(
  argv: readonly string[],
  world: World,
  commands: readonly Command[],
): { command: Command; typed: Typed } | undefined {
  const cli = describe(commands, world.version);
  const words = argv.filter((word) => !word.startsWith('-'));
  const asked = parse(cli, argv);
  const matched = cli.matchedCommand;

  if (asked.options.help === true || argv.length === 0) {
    const name = commands.find((command) => command.name === words.slice(0, wordsOf(command)).join(' '))?.name;
    world.stdout.write(name === undefined ? overview(commands) : help(commands, name));
    return undefined;
  }
  if (asked.options.version === true && matched === undefined) {
    world.stdout.write(`ninelives ${world.version}\n`);
    return undefined;
  }
  if (matched === undefined) throw unknownCommand(String(cli.args[0] ?? ''), commands);

  const second = String(cli.args[0] ?? '');
  const command =
    commands.find((candidate) => candidate.name === `${matched.name} ${second}`) ??
    commands.find((candidate) => candidate.name === matched.name);
  if (command === undefined) throw unknownCommand(`${matched.name} ${second}`.trim(), commands);

  checkOptions(asked.options, command);
  const positional = cli.args.slice(wordsOf(command) - 1).map(String);
  checkPositional(positional, command);
  const known = [...command.options, ...GLOBAL_OPTIONS];
  for (const option of known) if (option.value !== undefined) requireValue(asked.options[camel(option.name)], option);
  return {
    command,
    typed: {
      positional,
      text: (name) => rawValue(argv, name),
      given: (name) => asked.options[camel(name)] === true,
    },
  };
}

const wordsOf = (command: Command): number => command.name.split(' ').length;

const camel = (name: string): string =>
  name.replace(/(?<=[a-z])-([a-z])/g, (_, letter: string) => letter.toUpperCase());
const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

type ParsedOptions = Readonly<Record<string, unknown>>;

/**
 * cac knows a switch by its camel-case name only; written `--keep-box demo` it would take `demo` for the switch's value.
 */
function parse(cli: CAC, argv: readonly string[]): { readonly options: ParsedOptions } {
  const words = argv.map((word) =>
    /^--[a-z]+(-[a-z]+)+$/.test(word) && !word.startsWith('--no-') ? camel(word) : word,
  );
  return cli.parse(['node', 'ninelives', ...words], { run: false });
}

/** cac matches by the first word only, so commands of two words share one entry that takes the options of all. */
function describe(commands: readonly Command[], version: string): CAC {
  const cli = cac('ninelives');
  cli.version(version, '--version');
  cli.showVersionOnExit = false;
  for (const option of GLOBAL_OPTIONS)
    if (option.name !== 'version')
      cli.option(`${option.name === 'help' ? '-h, ' : ''}--${option.name}`, option.summary);
  const groups = new Map<string, CacCommand>();
  for (const command of commands) {
    const first = command.name.split(' ')[0] ?? '';
    const entry = groups.get(first) ?? cli.command(first, command.summary);
    groups.set(first, entry);
    for (const option of command.options) entry.option(rawName(option), option.summary);
  }
  return cli;
}

const rawName = (option: OptionSpec): string =>
  option.value === undefined ? `--${option.name}` : `--${option.name} <${option.value}>`;

/**
 * The text after `--name` as it was typed. cac's parser turns what looks like a number into one, which would make
 * version 4.10 to 4.1 and round a long seed.
 */
function rawValue(argv: readonly string[], name: string): string | undefined {
  let value: string | undefined;
  for (const [index, word] of argv.entries()) {
    if (word === '--') break;
    if (word === `--${name}`) value = argv[index + 1];
    else if (word.startsWith(`--${name}=`)) value = word.slice(name.length + 3);
  }
  return value;
}

function checkOptions(options: ParsedOptions, command: Command): void {
  const known = [...command.options, ...GLOBAL_OPTIONS].map((option) => option.name);
  for (const key of Object.keys(options)) {
    const name = kebab(key);
    if (key === '--' || known.includes(name)) continue;
    const meant = nearest(name, known);
    throw usage(
      `unknown option ${name.length === 1 ? '-' : '--'}${name}`,
      meant === undefined ? `see "ninelives ${command.name} --help"` : `did you mean --${meant}?`,
    );
  }
}

function requireValue(value: unknown, option: OptionSpec): void {
  if (value === true || value === false || value === '') {
    throw usage(`--${option.name} needs a value`, `give one: ${rawName(option)}`);
  }
}

function checkPositional(positional: readonly string[], command: Command): void {
  const missing = command.positional.filter((name) => name.startsWith('<'))[positional.length];
  if (missing !== undefined) throw usage(`${missing} is missing`, `give it: ${usageOf(command)}`);
  const extra = positional[command.positional.length];
  if (extra !== undefined && command.positional.at(-1) !== '...')
    throw usage(`unexpected argument "${extra}"`, `leave it out: ${usageOf(command)}`);
}

function unknownCommand(name: string, commands: readonly Command[]): NinelivesError {
  const names = commands.map((command) => command.name);
  const longer = names.find((candidate) => candidate.startsWith(`${name} `));
  const meant = longer ?? nearest(name, names);
  return usage(
    name === '' ? 'no command given' : `unknown command "${name}"`,
    meant === undefined ? 'see "ninelives --help"' : `did you mean "ninelives ${meant}"?`,
  );
}

const usageOf = (command: Command): string => ['ninelives', command.name, ...command.positional].join(' ');

function overview(commands: readonly Command[]): string {
  const width = Math.max(...commands.map((command) => command.name.length));
  return [
    'ninelives keeps virtual machines alive when the Xen hypervisor under them fails.',
    '',
    'Usage: ninelives <command> [options]',
    '',
    ...commands.map((command) => `  ${command.name.padEnd(width)}  ${command.summary}`),
    '',
    'See "ninelives <command> --help" for the options of a command.',
    '',
  ].join('\n');
}

function help(commands: readonly Command[], name: string): string {
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) return overview(commands);
  const options = [...command.options, ...GLOBAL_OPTIONS.filter((option) => option.name !== 'version')];
  const width = Math.max(...options.map((option) => rawName(option).length));
  return [
    `${command.summary[0]?.toUpperCase() ?? ''}${command.summary.slice(1)}.`,
    '',
    `Usage: ${usageOf(command)} [options]`,
    '',
    ...options.map((option) => `  ${rawName(option).padEnd(width)}  ${option.summary}`),
    ...(command.examples.length === 0 ? [] : ['', 'Examples:', ...command.examples.map((example) => `  ${example}`)]),
    '',
  ].join('\n');
}

function describeCause(cause: unknown): string {
  return cause instanceof Error ? `caused by ${cause.stack ?? cause.message}\n` : '';
}
