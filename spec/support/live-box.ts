/** What tests on the default box share: finding a CPU in Xen, and whether all VMs live. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { Guard, type GuardOptions } from '../../src/guard/guard.js';
import { findTarget, type Target } from '../../src/guard/target.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';
import { ChainOracle } from '../../src/workload/chain.js';
import { allWell, judge, type Sample } from '../../src/workload/verdict.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';

/** A slow or busy host needs most of it. */
const REVIVAL_MS = 30_000;
const ATTEMPTS = 300;

/**
 * Has the tests of a file share one default box, each beginning with it as its snapshot has it, frozen.
 * @param take is given the box and its Xen before each test; hooks of the file's own come after it
 */
export function useFreshBox(take: (box: Box, target: Target) => void): void {
  let box: Box | undefined;
  beforeAll(async () => {
    box = await openBox(DEFAULT_BOX, silent);
  });
  afterAll(async () => {
    await box?.stop();
  });
  beforeEach(async () => {
    take(box!, await freshTarget(box!));
  });
}

/** The same with a guard that watches the box and is warm. @param options is asked before each test */
export function useGuardedBox(
  take: (box: Box, target: Target, guard: Guard) => void,
  options: () => GuardOptions = () => ({}),
): void {
  let fresh: [Box, Target];
  useFreshBox((...given) => {
    fresh = given;
  });
  beforeEach(async () => {
    const guard = await Guard.attach(fresh[1], options());
    await guard.warm;
    take(...fresh, guard);
  });
}

export const sampleOf = (box: Box): Sample => ({ atMs: performance.now(), vms: box.vms() });

/** Names of the VMs that do not work on correctly since `before`, once they had their time; none as soon as all do. */
export async function lostVms(box: Box, before: Sample): Promise<string[]> {
  const oracle = new ChainOracle();
  const guests = DEFAULT_BOX.guests.map(({ name, kind }) => ({ name, kind }));
  const expected = [{ name: 'dom0', kind: 'dom0' as const }, ...guests];
  const end = performance.now() + REVIVAL_MS;
  for (;;) {
    await sleep(250);
    const verdicts = judge(before, before, [sampleOf(box)], { expected, oracle });
    const lost = verdicts.filter((vm) => !allWell([vm])).map(({ name }) => name);
    if (lost.length === 0 || performance.now() > end) return lost;
  }
}

/** The box as its snapshot has it, run on for some time, and frozen. @param ms of host time */
export async function freshTarget(box: Box, ms = 1000): Promise<Target> {
  await box.restore();
  await sleep(ms);
  await box.machine.freeze();
  return findTarget(box.machine);
}

/** Runs the box, frozen before and afterwards, until at least `count` CPUs are stopped in the middle of Xen. */
export async function freezeInXen(box: Box, target: Target, count = 1): Promise<number[]> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const xen = target.at(await box.machine.capture());
    const inside = readSituation(xen, target.facts, listDomains(xen)).cpus.filter(
      ({ where, registers }) => where === 'xen' && xen.profile.isText(registers.rip),
    );
    if (inside.length >= count) return inside.map(({ cpu }) => cpu);
    await box.machine.resume();
    await sleep(5 + (attempt % 13));
    await box.machine.freeze();
  }
  throw new Error(`no moment was found at which ${count} CPUs are in Xen`);
}
