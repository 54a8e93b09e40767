/** The injector on a real box: that the way of a CPU is foretold rightly, and that faults are made and seen. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { Random } from '../../src/common/random.js';
import type { Failure } from '../../src/detect/failure.js';
import { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import { Control } from '../../src/inject/control.js';
import { countInXen, noEffort } from '../../src/inject/count.js';
import { type FaultSpec, faultSchema, inject, planInjection, triggerSchema } from '../../src/inject/index.js';
import type { Site } from '../../src/inject/model.js';
import { siteInXen } from '../../src/inject/triggers/timer.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';
import { predict } from '../../src/x86/interpret/predict.js';
import { ENCODING_ORDER } from '../../src/x86/registers.js';
import { freshTarget } from '../support/live-box.js';

const signal = new AbortController().signal;

let box: Box;
let target: Target;
beforeAll(async () => {
  box = await openBox(DEFAULT_BOX, silent);
});
afterAll(async () => {
  await box?.stop();
});
beforeEach(async () => {
  target = await freshTarget(box, 500);
});

/** Bytes f3 90. */
const PAUSE = 0x90f3;

const soon = (): number => performance.now() + 10_000;

async function someSite(control: Control, n: number): Promise<Site> {
  await control.runFor(20 + 17 * n);
  const site = await siteInXen(target, control, { victim: n, retries: n, deadline: soon() });
  if (site === undefined) throw new Error('no CPU was found in Xen');
  return site;
}

describe('the way of a CPU', () => {
  it('is foretold instruction by instruction', async () => {
    const control = new Control(box.machine, { signal });
    const { machine } = box;
    let compared = 0;
    for (let n = 0; n < 12; n++) {
      const { state, xen } = await someSite(control, n);
      const within = (rip: bigint): boolean => xen.profile.isText(rip);
      const { path, registers } = predict(machine.ram, await machine.registers(state.cpu), { limit: 150, within });
      for (let step = 1; step < path.length; step++) {
        await machine.stepOne(state.cpu);
        const now = await machine.registers(state.cpu);
        if (now.rip === path[step - 1]) break; // One repetition of a string instruction.
        // QEMU 7.2 does not stop behind a PAUSE, which makes way for other CPUs, but one instruction later.
        if (xen.memory.u16(path[step - 1]!) === PAUSE) step++;
        if (step >= path.length) break;
        expect([n, step, now.rip]).toEqual([n, step, path[step]]);
        expect(ENCODING_ORDER.map((name) => now[name])).toEqual([...registers[step]!]);
        compared++;
      }
    }
    expect(compared).toBeGreaterThan(200);
  });

  it('is counted exactly over several stays in Xen, in little time', async () => {
    const control = new Control(box.machine, { signal });
    const effort = noEffort();
    for (let n = 0; n < 5; n++) {
      const site = await someSite(control, n);
      const reached = await countInXen(site, { instructions: 8000, deadline: soon() }, effort);
      expect(reached).toMatchObject({ kind: 'reached', steps: 8000 });
    }
    expect(effort.surprises).toBe(0);
    expect(effort.hops + effort.steps).toBeLessThan(4000);
  });
});

describe('faults', () => {
  // A hang with interrupts on, or of an idle CPU, is told by another watch each time, whichever the host lets be the first.
  const cases: readonly [FaultSpec, Partial<Failure> | undefined][] = (
    [
      [{ type: 'failstop' }, { kind: 'fatal-trap', summary: 'page fault in Xen at 0x0' }],
      [{ type: 'register', registers: ['rsp'] }, undefined],
      [{ type: 'code' }, undefined],
      [{ type: 'memory' }, undefined],
      [{ type: 'memory', region: 'next-read' }, undefined],
      [{ type: 'hang' }, { kind: 'hang' }],
      [{ type: 'lock-leak' }, undefined],
      [{ type: 'lock-leak', where: 'next' }, { kind: 'hang' }],
      [{ type: 'software-bug' }, undefined],
    ] as const
  ).map(([fault, seen]) => [faultSchema.parse(fault), seen]);

  it.each(cases)('$type is made, told, and seen by the guard where it must be', async (fault, seen) => {
    const guard = await Guard.attach(target, { text: 'ignore' });
    await guard.warm;
    const trigger = triggerSchema.parse({ type: 'timer', delayMs: [100, 300], instructions: [0, 2000] });
    const injection = await inject(target, planInjection(new Random(11), fault, trigger), { signal });
    expect(injection).toMatchObject({ kind: 'injected' });
    if (injection.kind !== 'injected') return;
    expect(injection.applied.what).not.toBe('');
    expect(injection.point.at).toMatch(/^\w/);
    expect(box.machine.state).toBe('frozen');
    const recovery = await guard.nextRecovery(seen === undefined ? 1000 : 20_000);
    if (seen !== undefined) expect(recovery?.failure).toMatchObject(seen);
    guard.stop();
  });
});

describe('triggers', () => {
  it('catch the k-th time a function is reached, and a subsystem at work', async () => {
    const failstop = faultSchema.parse({ type: 'failstop' });
    const schedule = triggerSchema.parse({ type: 'function', function: 'schedule', hit: [3, 3], delayMs: [50, 50] });
    expect(await inject(target, planInjection(new Random(1), failstop, schedule), { signal })).toMatchObject({
      kind: 'injected',
      point: { at: 'schedule', steps: 0 },
    });
    await box.restore();
    const timers = triggerSchema.parse({
      type: 'subsystem',
      subsystem: 'timers',
      instructions: [40, 40],
      entry: [2, 2],
    });
    expect(await inject(target, planInjection(new Random(1), failstop, timers), { signal })).toMatchObject({
      kind: 'injected',
      point: { at: expect.stringMatching(/timer|heap|entry/) as string, steps: 40 },
    });
  });

  it('say so when the point is not reached, and have changed nothing', async () => {
    const never = triggerSchema.parse({ type: 'function', function: 'machine_restart', delayMs: [0, 0], limitMs: 200 });
    const planned = planInjection(new Random(1), faultSchema.parse({ type: 'failstop' }), never);
    expect(await inject(target, planned, { signal })).toMatchObject({ kind: 'not-reached' });
    expect(box.machine.state).toBe('frozen');
    expect(box.machine.breakpoints.size).toBe(0);
  });
});
