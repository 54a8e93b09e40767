/** Which box a command is for: the one to start, by its options, or the one that runs, by its name or socket. */
import { type BoxSpec, checkBoxSpec, DEFAULT_BOX } from '../testbed/spec.js';
import type { BoxAddress } from './box-checks.js';
import { requireBox } from './boxes.js';
import { type OptionSpec, parseAccelerator, parseCpus, parseMemory, type Typed } from './options.js';

const NAME: OptionSpec = { name: 'name', value: 'box', summary: 'name of the box (default "default")' };

/** Options of commands that start a box. */
export const NEW_BOX_OPTIONS: readonly OptionSpec[] = [
  { name: 'cpus', value: 'n', summary: 'CPUs of the box, 1 to 16 (default 4)' },
  { name: 'memory', value: 'size', summary: 'memory of the box, 1G to 16G (default 2G)' },
  { name: 'accel', value: 'kind', summary: 'tcg (software emulation, the default) or kvm' },
  {
    name: 'xen',
    value: 'version',
    summary: "start of Debian's version of Xen, as in 4.17.5 (default: apt's candidate)",
  },
];

/** Options of commands that go to a box that runs. */
export const RUNNING_BOX_OPTIONS: readonly OptionSpec[] = [
  NAME,
  { name: 'qmp', value: 'socket', summary: 'QMP socket of a box that ninelives did not start' },
  {
    name: 'gdb',
    value: 'address',
    summary: 'its debugger stub, a socket path or host:port (default: found, or switched on)',
  },
  {
    name: 'profiles',
    value: 'folder',
    summary: 'folder with layout profiles (default: those that come with ninelives)',
  },
];

export const NAME_OPTION = NAME;

export const nameOf = (typed: Typed): string => typed.text('name') ?? DEFAULT_BOX.name;

/** @throws NL_USAGE */
export function newBoxSpec(typed: Typed): BoxSpec {
  const given = <T>(name: string, parse: (text: string) => T, fallback: T): T => {
    const text = typed.text(name);
    return text === undefined ? fallback : parse(text);
  };
  const xenVersion = typed.text('xen');
  const spec: BoxSpec = {
    ...DEFAULT_BOX,
    name: nameOf(typed),
    cpus: given('cpus', parseCpus, DEFAULT_BOX.cpus),
    memoryMiB: given('memory', parseMemory, DEFAULT_BOX.memoryMiB),
    accel: given('accel', parseAccelerator, DEFAULT_BOX.accel),
    ...(xenVersion === undefined ? {} : { xenVersion }),
  };
  checkBoxSpec(spec);
  return spec;
}

/** Where the box is that the options name. @throws NL_NO_BOX */
export function boxAddress(typed: Typed): BoxAddress {
  const qmpPath = typed.text('qmp') ?? requireBox(nameOf(typed)).qmp;
  const gdb = typed.text('gdb');
  return gdb === undefined ? { qmpPath } : { qmpPath, gdb };
}
