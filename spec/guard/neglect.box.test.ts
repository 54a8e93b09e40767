/** A hypervisor that goes on and does not do its work is seen, and brought back: on a real box, and its VMs live. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { Guard, type GuardEvent } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';
import { allVcpus, listDomains } from '../../src/xen/domains.js';
import { schedulerResources } from '../../src/xen/scheduler.js';
import { freshTarget, lostVms, sampleOf } from '../support/live-box.js';

const DETECTION_MS = 20_000;

let box: Box;
let target: Target;
let guard: Guard;
let events: GuardEvent[];
beforeAll(async () => {
  box = await openBox(DEFAULT_BOX, silent);
});
afterAll(async () => {
  await box?.stop();
});
beforeEach(async () => {
  target = await freshTarget(box);
  events = [];
  const capsuleDir = process.env['NL_TEST_CAPSULES'];
  const onEvent = (event: GuardEvent): void => void events.push(event);
  guard = await Guard.attach(target, { onEvent, ...(capsuleDir === undefined ? {} : { capsuleDir }) });
  await guard.warm;
});

describe('the VMs of a hypervisor', () => {
  it('live when wake-ups reached the idle units of CPUs, and nobody ran any more', async () => {
    const before = sampleOf(box);
    const { machine } = box;
    const xen = target.at(await machine.capture());
    const resources = schedulerResources(xen);
    for (const { domain, object } of allVcpus(listDomains(xen))) {
      if (domain.kind === 'idle') continue;
      const unit = new Uint8Array(
        new BigUint64Array([resources[object.num('processor')]!.u64('sched_unit_idle')]).buffer,
      );
      machine.ram.write(xen.memory.physicalAddress(object.at('sched_unit')), unit);
    }
    const recovery = await guard.nextRecovery(DETECTION_MS);
    console.log(
      JSON.stringify(events.map((e) => e.kind)),
      recovery?.failure,
      recovery?.plan.problems,
      recovery?.plan.steps.filter((x) => x.findings.length).map((x) => `${x.name}: ${x.findings}`),
    );
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when CPUs did nothing but softirqs that raise themselves', async () => {
    const before = sampleOf(box);
    // mov $1, %al; ret
    await box.machine.writeText(0, target.xen.symbol('rcu_pending'), Uint8Array.of(0xb0, 1, 0xc3));
    const recovery = await guard.nextRecovery(DETECTION_MS);
    console.log(
      JSON.stringify(events.map((e) => e.kind)),
      recovery?.failure,
      recovery?.plan.problems,
      recovery?.plan.steps.filter((x) => x.findings.length).map((x) => `${x.name}: ${x.findings}`),
    );
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('are let be while nothing fails', async () => {
    const before = sampleOf(box);
    expect(await guard.nextRecovery(10_000)).toBeUndefined();
    expect(events.map(({ kind }) => kind)).toEqual(['watching']);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
