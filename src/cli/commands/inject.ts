/** `ninelives inject`: one fault now, into a box that runs; by its guard where it has one. */
import { EXIT, NinelivesError } from '../../common/errors.js';
import { Random } from '../../common/random.js';
import { findTarget } from '../../guard/target.js';
import {
  FAULTS,
  type FaultSpec,
  faultSchema,
  injectPlanned,
  type Planned,
  planInjection,
  SOON,
  type TriggerSpec,
  triggerSchema,
} from '../../inject/index.js';
import { Machine } from '../../machine/machine.js';
import { boxAddress, RUNNING_BOX_OPTIONS } from '../box.js';
import type { BoxAddress } from '../box-checks.js';
import type { Command } from '../command.js';
import { askGuard, type Done } from '../guard-socket.js';
import { parseSeed, type Typed } from '../options.js';

export const inject: Command = {
  name: 'inject',
  positional: [],
  summary: 'break the hypervisor of a running box, now',
  options: [
    ...RUNNING_BOX_OPTIONS,
    {
      name: 'fault',
      value: 'type',
      summary: `what breaks: ${FAULTS.map(({ name }) => name).join(', ')} (default: failstop)`,
    },
    {
      name: 'function',
      value: 'name',
      summary: 'break it where this function of Xen begins (default: anywhere in Xen)',
    },
    { name: 'seed', value: 'n', summary: 'repeat the choices of an earlier injection (default: random, and shown)' },
  ],
  examples: [
    'ninelives inject',
    'ninelives inject --name big --seed 7',
    'ninelives inject --fault register --function schedule',
  ],
  async run({ typed, terminal, json, print, printJson, paint, signal }) {
    const seed = parseSeed(typed.text('seed') ?? String(Math.floor(Math.random() * 2 ** 32)));
    const planned = planInjection(new Random(seed), faultOf(typed), triggerOf(typed));
    const address = boxAddress(typed);
    terminal.step('breaking the hypervisor');
    const { point, what } =
      (await askGuard(address.qmpPath, planned)) ?? (await injectAlone(address, planned, typed, signal));
    terminal.done();
    if (json) printJson({ seed, fault: planned.fault, what, ...point });
    else {
      const hypercall = point.hypercall === undefined ? '' : `, in hypercall ${point.hypercall}`;
      print([
        `${paint.red('✗')} CPU ${point.cpu} is broken at ${paint.bold(point.at)}: ${what}`,
        `  it worked for ${point.vcpu}${hypercall}; seed ${seed}`,
      ]);
    }
    return EXIT.ok;
  },
};

/** @throws NL_USAGE */
function faultOf(typed: Typed): FaultSpec {
  const type = typed.text('fault') ?? 'failstop';
  const parsed = faultSchema.safeParse({ type });
  if (parsed.success) return parsed.data;
  throw new NinelivesError('NL_USAGE', `there is no fault "${type}"`, {
    fix: `use one of: ${FAULTS.map(({ name }) => name).join(', ')}`,
  });
}

function triggerOf(typed: Typed): TriggerSpec {
  const name = typed.text('function');
  return name === undefined ? SOON : triggerSchema.parse({ type: 'function', function: name, delayMs: [50, 600] });
}

/** Into a box that nobody guards: it fails, and stays failed. */
async function injectAlone(address: BoxAddress, planned: Planned, typed: Typed, signal: AbortSignal): Promise<Done> {
  await using machine = await Machine.attach(address);
  const target = await findTarget(machine, typed.text('profiles'));
  signal.throwIfAborted();
  const { point, applied } = await injectPlanned(target, planned, signal);
  await machine.resume();
  return { point, what: applied.what };
}
