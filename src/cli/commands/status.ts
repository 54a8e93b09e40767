/** `ninelives status`: the boxes that run, and who is alive in them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT, isNinelivesError } from '../../common/errors.js';
import { Machine } from '../../machine/machine.js';
import { duration, type Paint } from '../../report/style.js';
import { table } from '../../report/table.js';
import { ReportReader } from '../../testbed/reports.js';
import { NAME_OPTION } from '../box.js';
import { type BoxRecord, requireBox, runningBoxes } from '../boxes.js';
import type { Command } from '../command.js';

/** Long enough for the slowest VM of a busy box to do a step of its work. */
const WATCH_MS = 10_000;
const POLL_MS = 300;

interface BoxStatus {
  readonly box: BoxRecord;
  /** `busy`: a guard or another debugger is attached, so that the VMs cannot be looked at. */
  readonly state: 'running' | 'stopped' | 'busy' | 'unreachable';
  readonly vms: readonly VmStatus[];
}

interface VmStatus {
  readonly name: string;
  readonly kind: 'dom0' | 'pv' | 'pvh';
  /** It did work while we looked. */
  readonly alive: boolean;
  /** None of its own checks failed. */
  readonly intact: boolean;
  /** Steps of work done so far. */
  readonly steps: number;
}

export const status: Command = {
  name: 'status',
  positional: [],
  summary: 'show the boxes that run, and which of their VMs are alive',
  options: [NAME_OPTION],
  examples: ['ninelives status', 'ninelives status --json'],
  async run({ typed, terminal, json, print, printJson, paint, signal }) {
    const name = typed.text('name');
    const boxes = name === undefined ? runningBoxes() : [requireBox(name)];
    if (boxes.length > 0) terminal.step('looking at who is alive');
    const found: BoxStatus[] = [];
    for (const box of boxes) found.push(await look(box, signal));
    terminal.done();
    if (json) printJson({ boxes: found });
    else if (found.length === 0) print(['no box is running; start one: ninelives up']);
    else for (const one of found) print(statusLines(one, paint));
    const allWell = found.every((one) => one.vms.every((vm) => vm.alive && vm.intact));
    return allWell ? EXIT.ok : EXIT.targetFailed;
  },
};

async function look(box: BoxRecord, signal: AbortSignal): Promise<BoxStatus> {
  let machine: Machine;
  try {
    machine = await Machine.attach({ qmpPath: box.qmp });
  } catch (error) {
    if (isNinelivesError(error, 'NL_STUB_BUSY') || isNinelivesError(error, 'NL_QMP_LOST')) {
      return { box, state: 'busy', vms: [] };
    }
    if (isNinelivesError(error)) return { box, state: 'unreachable', vms: [] };
    throw error;
  }
  await using attached = machine;
  const reader = new ReportReader(() => attached.ram, box.magic);
  reader.rescan();
  const before = new Map(reader.read().map((report) => [report.name, report.n]));
  if (attached.wasRunning) {
    await attached.resume();
    const end = performance.now() + WATCH_MS;
    const allMoved = (): boolean => {
      reader.rescan();
      const now = new Map(reader.read().map((report) => [report.name, report.n]));
      return box.vms.every(({ name }) => (now.get(name) ?? 0) > (before.get(name) ?? 0));
    };
    while (!allMoved() && performance.now() < end) await sleep(POLL_MS, undefined, { signal });
  }
  const reports = new Map(reader.read().map((report) => [report.name, report]));
  const vms = box.vms.map(({ name, kind }): VmStatus => {
    const report = reports.get(name);
    const steps = report?.n ?? 0;
    return { name, kind, alive: steps > (before.get(name) ?? 0), intact: report?.errors === 0, steps };
  });
  return { box, state: attached.wasRunning ? 'running' : 'stopped', vms };
}

function statusLines({ box, state, vms }: BoxStatus, p: Paint): string[] {
  const age = duration(Date.now() - Date.parse(box.startedAt));
  const yes = (value: boolean): string => (value ? p.green('yes') : p.red('no'));
  const rows = vms.map((vm) => [vm.name, vm.kind, yes(vm.alive), yes(vm.intact), String(vm.steps)]);
  return [
    `${p.bold(box.name)}  ${STATES[state]}, up for ${age}`,
    `  Xen ${box.xenVersion}, ${box.cpus} CPUs, ${box.memoryMiB} MiB, process ${box.pid}`,
    ...table(
      [{ title: 'VM' }, { title: 'kind' }, { title: 'alive' }, { title: 'intact' }, { title: 'steps', align: 'right' }],
      rows,
      p,
    )
      .slice(vms.length === 0 ? 1 : 0)
      .map((line) => `  ${line}`),
  ];
}

const STATES = {
  running: 'running',
  stopped: 'stands still',
  busy: 'running, another debugger is attached',
  unreachable: 'cannot be reached',
} as const;
