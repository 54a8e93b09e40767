/** What is kept of a trial that did not go well: the consoles of all VMs, and what every CPU was doing at the end. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isNinelivesError } from '../common/errors.js';
import type { Failure } from '../detect/failure.js';
import type { Target } from '../guard/target.js';
import { consoleLogIn } from '../machine/spec.js';
import { RecordingView, saveCapsule } from '../recover/capsule.js';
import { type Mechanism, makePlan } from '../recover/mechanism.js';
import type { Box } from '../testbed/box.js';
import type { View } from '../x86/view.js';
import { readSituation } from '../xen/cpus.js';
import { allVcpus, listDomains } from '../xen/domains.js';
import { guestLines, pendingEois } from '../xen/interrupts.js';
import { heapLocks, isHeld, lockName, lockState, staticLocks } from '../xen/locks.js';
import type { Xen } from '../xen/xen.js';

/** Name of the console that Xen and dom0 share. */
const CONSOLE = 'xen';
/** dom0 may be broken: it gets this long for each console of a guest, in milliseconds. */
const ASK_LIMIT_MS = 2000;
/** Of each guest's console; the serial port carries some 10 kB/s. */
const GUEST_CONSOLE_LINES = 60;

/** How much the box's console had said; what comes after is of this run. */
export function consoleMark(box: Box): number {
  const path = consoleLogIn(box.runtimeDir, CONSOLE);
  return existsSync(path) ? statSync(path).size : 0;
}

export interface EvidenceOptions {
  /** From `consoleMark`, when the trial began. */
  readonly mark: number;
  /** Whether dom0 is seen to work, so that it can be asked for what its guests said. */
  readonly dom0: 'works' | 'lost';
  readonly mechanism: Mechanism;
  /** What went wrong, one line. */
  readonly cause: string;
  /** How the pings of a sender outside the box fared; none where there is no sender. */
  readonly pings: readonly string[];
}

/**
 * Writes `console-*.log`, `end.txt`, `end.capsule` and, with a sender outside the box, `pings.txt` to `dir`. The box stands still
 * afterwards.
 */
export async function keepEvidence(dir: string, box: Box, target: Target, options: EvidenceOptions): Promise<void> {
  const said = readFileSync(consoleLogIn(box.runtimeDir, CONSOLE)).subarray(options.mark);
  writeFileSync(join(dir, 'console-xen-dom0.log'), said);
  for (const { name } of box.spec.guests) {
    const relayed = relayedBy(said.toString('latin1'), name);
    writeFileSync(join(dir, `console-${name}.log`), await guestConsole(box, name, options.dom0, relayed));
  }
  if (options.pings.length > 0) writeFileSync(join(dir, 'pings.txt'), `${options.pings.join('\n')}\n`);
  await box.machine.freeze();
  const view = await box.machine.capture();
  const lines = endOf(view, target);
  const problem = keepCapsule(join(dir, 'end.capsule'), view, target, options);
  if (problem !== undefined) lines.push(problem);
  writeFileSync(join(dir, 'end.txt'), `${lines.join('\n')}\n`);
}

/** The end as a capsule: a recovery from it is planned to find what belongs into it. Returns why there is none. */
function keepCapsule(
  path: string,
  view: View,
  target: Target,
  { mechanism, cause }: EvidenceOptions,
): string | undefined {
  const recording = new RecordingView(view);
  const xen = target.at(recording);
  try {
    makePlan(mechanism, xen, target.facts, { scope: 'everything' });
    const failure: Failure = { kind: 'halt', summary: `the end of the run: ${cause}`, detectedAtMs: performance.now() };
    saveCapsule(path, { recording, xen, failure, mechanism, note: cause });
    return undefined;
  } catch (error) {
    if (isNinelivesError(error, 'NL_NO_SPACE')) throw error;
    return `no capsule: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/**
 * The end of what a guest said on its console, which dom0's xenconsoled keeps. Of a dom0 that is lost: what it passed on to its own
 * console (`guest/dom0-init.sh`) until then.
 */
async function guestConsole(box: Box, name: string, dom0: EvidenceOptions['dom0'], relayed: string): Promise<string> {
  if (dom0 === 'lost') return `(dom0 is lost; this is what it passed on since the box was restored)\n${relayed}`;
  try {
    const path = `/var/log/xen/console/guest-${name}.log`;
    const { output } = await box.dom0.run(`tail -n ${GUEST_CONSOLE_LINES} ${path}`, ASK_LIMIT_MS);
    return output;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return `(dom0 could not be asked for it: ${why}; this is what it passed on)\n${relayed}`;
  }
}

/** What of dom0's console guest `name` has said. */
export function relayedBy(console: string, name: string): string {
  const lines = console.replaceAll('\r', '').split('\n');
  const own = lines.flatMap((line) => {
    if (line.startsWith(`${name} says: `)) return [line.slice(name.length + 7)];
    return line.startsWith(`ninelives: ${name} `) ? [line] : [];
  });
  return own.map((line) => `${line}\n`).join('');
}

/** What every CPU and vCPU was doing, and the locks that are held. State may be too damaged to be read: that is evidence as well. */
function endOf(view: View, target: Target): string[] {
  const lines: string[] = [];
  const attempt = (what: string, tell: () => void): void => {
    try {
      tell();
    } catch (error) {
      lines.push(`${what} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  const xen = target.at(view);
  attempt('the CPUs', () => {
    for (const state of readSituation(xen, target.facts, listDomains(xen)).cpus) {
      const { inService, requested } = view.lapic(state.cpu);
      const trace = state.backtrace.map((entry) => entry.text).join(' <- ');
      lines.push(`CPU ${state.cpu} ${state.where} ${state.current.name} (loaded ${state.loaded.name}) ${trace}`);
      lines.push(`      in service [${inService.join(' ')}] requested [${requested.join(' ')}]`);
    }
  });
  attempt('the vCPUs', () => {
    for (const { name, object, domain } of allVcpus(listDomains(xen))) {
      if (domain.kind === 'idle') continue;
      const flags = `pause_flags ${object.u64('pause_flags')} pause_count ${object.num('pause_count')}/${domain.object.num('pause_count')}`;
      const pending = xen.memory.u8(object.u64('vcpu_info'));
      lines.push(
        `${name} CPU ${object.num('processor')} runstate ${object.num('runstate.state')} ${flags} upcall ${pending}`,
      );
    }
  });
  attempt('the locks', () => {
    for (const lock of [...staticLocks(xen), ...heapLocks(xen, listDomains(xen))]) {
      if (isHeld(xen, lock)) lines.push(`held: ${lockName(lock)} ${lockState(xen, lock)}`);
    }
  });
  attempt('the interrupts', () => lines.push(...interruptsOf(xen)));
  return lines;
}

/** The interrupt lines of guests, and what each CPU waits for a guest to be done with. */
function interruptsOf(xen: Xen): string[] {
  const lines = [...guestLines(xen)].map(({ irq, line, action }) => {
    const timer = `timer status ${action.num('eoi_timer.status')} on CPU ${action.num('eoi_timer.cpu')}`;
    const vector = line.num('arch.vector');
    return `IRQ ${irq} vector ${vector} status ${line.num('status')} in flight ${action.num('in_flight')} ${timer}`;
  });
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const waiting = pendingEois(xen, cpu).map(
      ({ irq, vector, ready }) => `${vector} (IRQ ${irq}${ready ? ', ready' : ''})`,
    );
    if (waiting.length > 0) lines.push(`CPU ${cpu} waits for guests to be done with ${waiting.join(' ')}`);
  }
  return lines;
}
