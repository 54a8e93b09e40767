/** `ninelives inject`: one fault now, into a box that runs; by its guard where it has one. */
import { EXIT } from '../../common/errors.js';
import { Random } from '../../common/random.js';
import { findTarget } from '../../guard/target.js';
import { type InjectionPoint, injectFailstop } from '../../inject/failstop.js';
import { Machine } from '../../machine/machine.js';
import { boxAddress, RUNNING_BOX_OPTIONS } from '../box.js';
import type { BoxAddress } from '../box-checks.js';
import type { Command } from '../command.js';
import { askGuard } from '../guard-socket.js';
import { parseSeed, type Typed } from '../options.js';

export const inject: Command = {
  name: 'inject',
  positional: [],
  summary: 'break the hypervisor of a running box, now (failstop: program counter to 0 on a CPU in Xen)',
  options: [
    ...RUNNING_BOX_OPTIONS,
    { name: 'seed', value: 'n', summary: 'repeat the choices of an earlier injection (default: random, and shown)' },
  ],
  examples: ['ninelives inject', 'ninelives inject --name big --seed 7'],
  async run({ typed, terminal, json, print, printJson, paint, signal }) {
    const seed = parseSeed(typed.text('seed') ?? String(Math.floor(Math.random() * 2 ** 32)));
    const address = boxAddress(typed);
    terminal.step('breaking the hypervisor');
    const point = (await askGuard(address.qmpPath, seed)) ?? (await injectAlone(address, seed, typed, signal));
    terminal.done();
    if (json) printJson({ seed, ...point });
    else {
      const hypercall = point.hypercall === undefined ? '' : `, in hypercall ${point.hypercall}`;
      print([
        `${paint.red('✗')} CPU ${point.cpu} is broken at ${paint.bold(point.at)}: its program counter is 0`,
        `  it worked for ${point.vcpu}${hypercall}; seed ${seed}`,
      ]);
    }
    return EXIT.ok;
  },
};

/** Into a box that nobody guards: it fails, and stays failed. */
async function injectAlone(
  address: BoxAddress,
  seed: number,
  typed: Typed,
  signal: AbortSignal,
): Promise<InjectionPoint> {
  await using machine = await Machine.attach(address);
  const target = await findTarget(machine, typed.text('profiles'));
  signal.throwIfAborted();
  const point = await injectFailstop(target, new Random(seed));
  await machine.resume();
  return point;
}
