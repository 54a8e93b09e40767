/** CPUs of a real box that sleep in their idle loop are woken when a plan sends them elsewhere. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { recover } from '../../src/guard/recover.js';
import type { Target } from '../../src/guard/target.js';
import { callOut } from '../../src/guard/wake.js';
import { microreset } from '../../src/recover/microreset/index.js';
import type { Box } from '../../src/testbed/box.js';
import type { View } from '../../src/x86/view.js';
import { lostVms, type Moment, runUntil, sampleOf, useFreshBox } from '../support/live-box.js';

let box: Box;
let target: Target;
useFreshBox((...given) => {
  [box, target] = given;
});

/** CPUs that are asleep while none is in Xen: then a plan has them choose anew what they run. */
function findAsleep({ view, cpus }: Moment): { view: View; asleep: readonly number[] } | undefined {
  const asleep = cpus.filter(({ where }) => where === 'halted').map(({ cpu }) => cpu);
  return asleep.length > 0 && cpus.every(({ where }) => where !== 'xen') ? { view, asleep } : undefined;
}

describe('a CPU that sleeps', () => {
  it('is woken, whatever the failure was, when it is sent elsewhere', async () => {
    const before = sampleOf(box);
    const { view, asleep } = await runUntil(box, target, findAsleep);
    const failure = { kind: 'bug', cpu: 0, summary: 'none', detectedAtMs: performance.now() } as const;
    const { plan, result } = await recover(target, view, failure, { mechanism: microreset });
    expect(result).toBe('resumed');
    const places = plan.edits.flatMap((edit) => (edit.kind === 'registers' ? [edit] : []));
    expect(places.map(({ cpu }) => cpu)).toEqual(expect.arrayContaining([...asleep]));
    await sleep(500);
    await box.machine.freeze();
    const now = await box.machine.capture();
    for (const { cpu, set } of places) expect(now.registers(cpu).rip).not.toBe(set.rip);
    await box.machine.resume();
    expect(await lostVms(box, before)).toEqual([]);
  });
});

describe('CPUs of a machine that stood still', () => {
  it('are all interrupted where a plan sends none anywhere, and only there', async () => {
    const before = sampleOf(box);
    const xen = target.at(await box.machine.capture());
    const vector = Number(xen.profile.constant('EVENT_CHECK_VECTOR'));
    const interrupted = async (): Promise<number> =>
      (await box.machine.lapics()).filter(({ requested }) => requested.includes(vector)).length;
    const failure = { kind: 'hang', cpu: 0, summary: 'none', detectedAtMs: performance.now() } as const;
    const already = await interrupted();
    await callOut(box.machine, xen, failure, new Map([[0, {}]]));
    expect(await interrupted()).toBe(already);
    await callOut(box.machine, xen, failure, new Map());
    expect(await interrupted()).toBe(xen.cpuCount);
    await box.machine.resume();
    expect(await lostVms(box, before)).toEqual([]);
  });
});
