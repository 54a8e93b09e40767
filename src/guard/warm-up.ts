/**
 * The beginning of a guard: it rehearses on the healthy, frozen box, so that translations are cached and the code is compiled when
 * the first failure comes.
 */
import type { Machine } from '../machine/machine.js';
import { RecordingView } from '../recover/capsule.js';
import type { Mechanism } from '../recover/mechanism.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { View } from '../x86/view.js';
import { isWarm, rehearse, rehearseThoroughly } from './rehearsal.js';
import type { Target } from './target.js';

/** Exchanges with QEMU until the code for them is compiled. */
const EXCHANGES = 40;

/**
 * Makes the first rehearsals, which record the pages that they need. A process that has guarded before is warm: one rehearsal has
 * it know this box.
 * @returns one more rehearsal, of that recording: it may be made while the box runs
 */
export async function warmUp(target: Target, mechanism: Mechanism): Promise<() => void> {
  const cold = !isWarm();
  const exchanges = cold ? EXCHANGES : 1;
  let view = await target.machine.capture();
  for (let n = 1; n < exchanges; n++) view = await rehearseExchange(target.machine);
  const stage = cold ? new RecordingView(view) : view;
  if (cold) rehearseThoroughly(target, stage, mechanism);
  const once = (): void => {
    try {
      rehearse(target, stage, mechanism);
    } catch {
      // The damage is made up and may make no sense; later, a page that was not recorded is one of the running box.
    }
  };
  once();
  return once;
}

/** Selectors of 64-bit code of Xen and of its PV guests: only then does the stub give and take whole registers. */
const LONG_MODE_CS: ReadonlySet<number> = new Set([0xe008, 0xe033]);

/** What a recovery asks of the machine, with nothing changed: a capture, and registers written as they are. */
async function rehearseExchange(machine: Machine): Promise<View> {
  const view = await machine.capture();
  const writes = new Map<number, Partial<CpuRegisters>>();
  for (let cpu = 0; cpu < view.cpuCount; cpu++) {
    const { cs, r12, cr3 } = view.registers(cpu);
    if (LONG_MODE_CS.has(cs)) writes.set(cpu, { r12, cr3 });
  }
  await machine.writeAllRegisters(writes);
  return view;
}
