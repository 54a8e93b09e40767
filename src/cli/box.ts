/** Which box a command means, and getting hold of it. */
import { Machine } from '../machine/machine.js';
import { usage } from './complain.js';
import type { OptionSpec, Typed } from './options.js';

export const BOX_OPTIONS: readonly OptionSpec[] = [
  { name: 'qmp', value: 'socket', summary: 'QMP socket of the box (default: the box that "ninelives up" started)' },
  {
    name: 'gdb',
    value: 'address',
    summary: 'debugger stub, a socket path or host:port (default: found, or switched on)',
  },
  {
    name: 'profiles',
    value: 'folder',
    summary: 'folder with layout profiles (default: those that come with ninelives)',
  },
];

/**
 * Attaches to the box that the options name; the box stands still afterwards.
 * @throws NL_USAGE without a socket, and what `Machine.attach` throws
 */
export async function attachBox(typed: Typed): Promise<Machine> {
  const qmpPath = typed.text('qmp');
  if (qmpPath === undefined) throw usage('which box?', 'give its QMP socket with --qmp');
  const gdb = typed.text('gdb');
  return Machine.attach({ qmpPath, ...(gdb === undefined ? {} : { gdb }) });
}
