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
import type { View } from '../../src/x86/view.js';
import { type CpuState, readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import type { Xen } from '../../src/xen/xen.js';

/** A slow or busy host needs most of it. */
const REVIVAL_MS = 30_000;
const ANSWER_MS = 20_000;
const ATTEMPTS = 1000;
/** Below the guest's frame by more than this a function of Xen's has been called, in bytes. */
const CALLED = 64n;

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

/** Has all vCPUs of each named VM run on that CPU only, where Xen's scheduler need not put them in a test's time. The box is frozen before and afterwards. */
export async function pin(box: Box, vms: Readonly<Record<string, number>>): Promise<void> {
  await box.machine.resume();
  for (const [vm, cpu] of Object.entries(vms)) {
    const { status, output } = await box.dom0.run(`xl vcpu-pin ${vm} all ${cpu}`, ANSWER_MS);
    if (status !== 0) throw new Error(`xl vcpu-pin: ${output}`);
  }
  await box.machine.freeze();
}

/** What a frozen box was doing, as of one freeze. */
export interface Moment {
  readonly view: View;
  readonly xen: Xen;
  readonly cpus: readonly CpuState[];
}

/** Runs the box, frozen before and afterwards, until `find` gives something of a moment. */
export async function runUntil<T>(box: Box, target: Target, find: (moment: Moment) => T | undefined): Promise<T> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const view = await box.machine.capture();
    const xen = target.at(view);
    const found = find({ view, xen, cpus: readSituation(xen, target.facts, listDomains(xen)).cpus });
    if (found !== undefined) return found;
    await box.machine.resume();
    await sleep(3 + (attempt % 13));
    await box.machine.freeze();
  }
  throw new Error('no such moment was found');
}

/**
 * CPUs that stand in a function of Xen's. A test that has one go on elsewhere takes away where it stood, and in the entry code that alone
 * tells which registers are still the guest's: what becomes of such a failure is a matter of chance, which campaigns measure.
 */
export const inXen = ({ xen, cpus }: Moment): CpuState[] =>
  cpus.filter(
    ({ where, registers, stack }) =>
      where === 'xen' && xen.profile.isText(registers.rip) && registers.rsp < stack.guestFrame - CALLED,
  );

/** Runs the box, frozen before and afterwards, until at least `count` CPUs are stopped in the middle of Xen. */
export function freezeInXen(box: Box, target: Target, count = 1): Promise<number[]> {
  return runUntil(box, target, (moment) => {
    const inside = inXen(moment).map(({ cpu }) => cpu);
    return inside.length >= count ? inside : undefined;
  });
}

/** Runs the box, frozen before, until a CPU is in the middle of Xen, and has it go on where nothing is: frozen afterwards, about to fail. */
export async function failInXen(box: Box, target: Target): Promise<void> {
  const [cpu] = await freezeInXen(box, target);
  await box.machine.writeRegisters(cpu!, { rip: 0n });
}
