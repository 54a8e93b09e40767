/** Xen that crashes a domain: on a real box, a domain that is well lives, and one that is not ends alone. */
import { describe, expect, it } from 'vitest';
import type { Guard, GuardEvent } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { readSituation } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { lostVms, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;
const TRIES = 2000;

let box: Box;
let target: Target;
let guard: Guard;
let events: GuardEvent[];
useGuardedBox(
  (...given) => {
    [box, target, guard] = given;
  },
  () => {
    events = [];
    return { onEvent: (event) => events.push(event) };
  },
);

/** Runs the frozen box until something is delivered to a PV domain that `wanted` names, and has Xen crash that one instead. */
async function crashInDelivery(wanted: (id: number) => boolean): Promise<number> {
  const { machine } = box;
  const delivery = target.xen.symbol('create_bounce_frame');
  await machine.setBreakpoints([delivery]);
  for (let n = 0; n < TRIES; n++) {
    await machine.resume();
    const stop = await machine.waitForStop(DETECTION_MS);
    if (stop.kind !== 'breakpoint') throw new Error(stop.kind);
    const xen = target.at(await machine.capture());
    const { domain } = readSituation(xen, target.facts, listDomains(xen)).cpus[stop.cpu]!.current;
    if (xen.view.registers(stop.cpu).rip !== delivery || !wanted(domain.id)) continue;
    await machine.clearBreakpoints([delivery]);
    await machine.writeRegisters(stop.cpu, { rip: xen.symbol('asm_domain_crash_synchronous'), rdi: 0n });
    return domain.id;
  }
  throw new Error('nothing was delivered');
}

describe('a domain that Xen crashes', () => {
  it('lives when it is dom0, and Xen was at fault', async () => {
    const before = sampleOf(box);
    await crashInDelivery((id) => id === 0);
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({
      result: 'resumed',
      failure: { kind: 'domain-crash', domain: 0 },
    });
    expect(await guard.nextRecovery(2000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('ends alone when it is crashed again at once', async () => {
    const before = sampleOf(box);
    const id = await crashInDelivery((other) => other !== 0);
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ failure: { kind: 'domain-crash', domain: id } });
    await box.machine.freeze();
    await crashInDelivery((other) => other === id);
    expect(await guard.nextRecovery(2000)).toBeUndefined();
    const lost = await lostVms(box, before);
    expect(lost).toHaveLength(1);
    expect(lost).not.toContain('dom0');
    expect(events.filter(({ kind }) => kind === 'failure')).toHaveLength(1);
  });
});
