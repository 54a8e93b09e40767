import { describe, expect, it } from 'vitest';
import type { Command } from '../../src/cli/command.js';
import { COMMANDS } from '../../src/cli/commands/index.js';
import { run } from '../../src/cli/program.js';
import { NinelivesError } from '../../src/common/errors.js';

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function ninelives(
  argv: readonly string[],
  commands: readonly Command[] = COMMANDS,
  signal?: AbortSignal,
): Promise<Ran> {
  let stdout = '';
  let stderr = '';
  const status = await run(
    argv,
    {
      stdout: { write: (text) => (stdout += text) },
      stderr: { write: (text) => (stderr += text) },
      environment: {},
      version: '1.2.3',
      interrupts: () => ({ signal: signal ?? new AbortController().signal, [Symbol.dispose]() {} }),
    },
    commands,
  );
  return { status, stdout, stderr };
}

const command = (name: string, action: Command['run'], extra: Partial<Command> = {}): Command => ({
  name,
  positional: [],
  summary: `does ${name}`,
  options: [
    { name: 'seed', value: 'n', summary: 'seed' },
    { name: 'keep-box', summary: 'keep it' },
  ],
  examples: [],
  run: action,
  ...extra,
});

const echo = command('demo', ({ typed, printJson }) => {
  printJson({ seed: typed.text('seed'), keep: typed.given('keep-box'), positional: typed.positional });
  return Promise.resolve(0);
});

describe('the command line', () => {
  it('shows all commands without arguments and with --help', async () => {
    for (const argv of [[], ['--help'], ['-h']]) {
      const { status, stdout } = await ninelives(argv);
      expect(status).toBe(0);
      for (const { name } of COMMANDS) expect(stdout).toContain(`  ${name}  `);
    }
  });

  it.each(COMMANDS.map(({ name }) => name))('shows help for "%s" with each of its options', async (name) => {
    const { status, stdout } = await ninelives([...name.split(' '), '--help']);
    expect(status).toBe(0);
    expect(stdout).toContain(`Usage: ninelives ${name}`);
    for (const option of COMMANDS.find((one) => one.name === name)?.options ?? [])
      expect(stdout).toContain(`--${option.name}`);
  });

  it('shows its version', async () => {
    expect(await ninelives(['--version'])).toMatchObject({ status: 0, stdout: 'ninelives 1.2.3\n' });
  });

  it('hands values over as they were typed', async () => {
    const seedOf = async (...argv: string[]): Promise<unknown> =>
      JSON.parse((await ninelives(['demo', ...argv], [echo])).stdout).seed;
    expect(await seedOf('--seed', '4.10')).toBe('4.10');
    expect(await seedOf('--seed=0x1f')).toBe('0x1f');
    expect(await seedOf('--seed', '007')).toBe('007');
    expect(await seedOf('--seed', '1', '--seed', '2')).toBe('2');
    expect(await seedOf()).toBeUndefined();
  });

  it('takes options before the command too', async () => {
    expect(JSON.parse((await ninelives(['--seed', '5', '--keep-box', 'demo'], [echo])).stdout)).toEqual({
      seed: '5',
      keep: true,
      positional: [],
    });
  });

  it('finds commands of two words', async () => {
    const make = command('profile make', echo.run, { positional: ['<file>'] });
    expect(JSON.parse((await ninelives(['profile', 'make', 'xen-syms'], [make])).stdout).positional).toEqual([
      'xen-syms',
    ]);
    expect((await ninelives(['profile'], [make])).stderr).toContain('did you mean "ninelives profile make"?');
    expect((await ninelives(['profile', 'make'], [make])).stderr).toContain('<file> is missing');
  });

  it.each([
    [['demmo'], 'did you mean "ninelives demo"?'],
    [['xyzzy'], 'see "ninelives --help"'],
    [['demo', '--sede', '3'], 'did you mean --seed?'],
    [['demo', '--keepbox'], 'did you mean --keep-box?'],
    [['demo', '-z'], 'see "ninelives demo --help"'],
    [['demo', '--seed'], '--seed <n>'],
    [['demo', '--seed', '--json'], '--seed <n>'],
    [['demo', '--no-seed'], '--seed <n>'],
    [['demo', 'extra'], 'leave it out'],
  ])('refuses %j with a hint', async (argv, hint) => {
    const { status, stdout, stderr } = await ninelives(argv, [echo]);
    expect(status).toBe(2);
    expect(stdout + stderr).toContain('NL_USAGE');
    expect(stdout + stderr).toContain(hint.replace(/"/g, argv.includes('--json') ? '\\"' : '"'));
  });
});

describe('errors', () => {
  const throwing = (error: unknown): Command => command('demo', () => Promise.reject(error));

  it('prints code, message and fix on stderr and exits with the status of the code', async () => {
    const error = new NinelivesError('NL_STUB_BUSY', 'held by another', { fix: 'detach it' });
    expect(await ninelives(['demo'], [throwing(error)])).toEqual({
      status: 4,
      stdout: '',
      stderr: 'error NL_STUB_BUSY: held by another\nfix: detach it\n',
    });
  });

  it('prints an object on stdout with --json', async () => {
    const error = new NinelivesError('NL_STUB_BUSY', 'held by another', { fix: 'detach it' });
    const { status, stdout, stderr } = await ninelives(['demo', '--json'], [throwing(error)]);
    expect({ status, stderr }).toEqual({ status: 4, stderr: '' });
    expect(JSON.parse(stdout)).toEqual({
      error: { code: 'NL_STUB_BUSY', message: 'held by another', fix: 'detach it' },
    });
  });

  it('calls what it does not know a defect', async () => {
    const { status, stderr } = await ninelives(['demo'], [throwing(new TypeError('x is undefined'))]);
    expect(status).toBe(70);
    expect(stderr).toContain('error NL_INTERNAL: x is undefined');
    expect((await ninelives(['demo'], [throwing('a string')])).status).toBe(70);
  });

  it('knows a full disk when it sees one', async () => {
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    expect((await ninelives(['demo'], [throwing(full)])).stderr).toContain('error NL_NO_SPACE');
  });

  it('blames Ctrl-C for what breaks after it', async () => {
    const controller = new AbortController();
    const lost = command('demo', () => {
      controller.abort(new NinelivesError('NL_INTERRUPTED', 'interrupted'));
      return Promise.reject(new NinelivesError('NL_QMP_LOST', 'socket closed'));
    });
    const { status, stderr } = await ninelives(['demo'], [lost], controller.signal);
    expect(status).toBe(130);
    expect(stderr).toContain('error NL_INTERRUPTED');
  });

  it('passes on the status of a target that failed', async () => {
    expect((await ninelives(['demo'], [command('demo', () => Promise.resolve(1))])).status).toBe(1);
  });
});
