/** An inspection as text. */
import type { InspectedCpu, Inspection } from './inspection.js';
import { type ColorMode, count, cut, type Paint, paint } from './style.js';
import { table } from './table.js';

/** @param frames lines of backtrace for each CPU */
export function inspectionLines(
  inspection: Inspection,
  options: { readonly width: number; readonly colors: ColorMode; readonly frames: number },
): string[] {
  const p = paint(options.colors);
  const { width } = options;
  const { xen, cpus, domains, heldLocks, lockCount, timers, missing } = inspection;
  const held = heldLocks.map((lock) => [p.yellow(lock.name), lock.kind, p.dim(lock.address)]);
  return [
    `${p.bold(`Xen ${xen.version}`)}  ${p.dim(`build-id ${xen.buildId}`)}`,
    '',
    p.bold('CPUs'),
    ...cpus.flatMap((cpu) => cpuLines(cpu, options.frames, options.width, p)),
    '',
    p.bold('domains'),
    ...indented(
      table(
        [{ title: 'vCPU' }, { title: 'kind' }, { title: 'state' }, { title: 'CPU', align: 'right' }, { title: '' }],
        domains.flatMap((domain) =>
          domain.vcpus.map((vcpu) => [
            vcpu.name,
            domain.kind.toUpperCase(),
            vcpu.state,
            String(vcpu.cpu),
            vcpu.pauseCount === 0 ? '' : p.yellow(`paused ${vcpu.pauseCount} times`),
          ]),
        ),
        p,
      ),
    ),
    '',
    p.bold('held locks'),
    ...indented(
      heldLocks.length === 0
        ? [p.dim(`none of ${lockCount}`)]
        : table([{ title: `${heldLocks.length} of ${lockCount}` }, { title: 'kind' }, { title: 'address' }], held, p),
    ),
    '',
    p.bold('timers'),
    ...indented(
      table(
        [
          { title: 'CPU', align: 'right' },
          { title: 'active', align: 'right' },
          { title: 'overflow', align: 'right' },
          { title: 'inactive', align: 'right' },
          { title: 'expires first' },
        ],
        timers.map((queue) => [
          String(queue.cpu),
          String(queue.active),
          String(queue.overflow),
          String(queue.inactive),
          queue.defect === undefined ? (queue.first ?? '') : p.red(queue.defect),
        ]),
        p,
      ),
    ),
    ...(missing.length === 0
      ? []
      : ['', p.bold('not to be seen'), ...missing.map((what) => `  ${cut(what, width - 2)}`)]),
  ];
}

const PLACES = { guest: 'in the guest', halted: 'idle, waits for an interrupt', xen: 'in Xen' } as const;

function cpuLines(cpu: InspectedCpu, frames: number, width: number, p: Paint): string[] {
  const hypercall = cpu.hypercall === undefined ? '' : `, hypercall ${cpu.hypercall}`;
  const vectors = [vectorText('in service', cpu.inService), vectorText('requested', cpu.requested)].filter(
    (text) => text !== '',
  );
  const lines = [`  CPU ${cpu.cpu}  ${p.cyan(cpu.vcpu)}  ${PLACES[cpu.where]}${hypercall}`];
  if (vectors.length > 0) lines.push(`         ${p.yellow(vectors.join('; '))}`);
  for (const frame of cpu.backtrace.slice(0, frames)) lines.push(`         ${p.dim(cut(frame, width - 9))}`);
  const hidden = cpu.backtrace.length - frames;
  if (hidden > 0) lines.push(`         ${p.dim(`and ${count(hidden, 'frame')} more`)}`);
  return lines;
}

const vectorText = (label: string, vectors: readonly number[]): string =>
  vectors.length === 0 ? '' : `${label}: ${vectors.map((vector) => `0x${vector.toString(16)}`).join(' ')}`;

const indented = (lines: readonly string[]): string[] => lines.map((line) => `  ${line}`);
