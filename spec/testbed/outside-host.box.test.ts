import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import type { OutsideHost } from '../../src/testbed/outside-host.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import { type BoxSpec, DEFAULT_BOX } from '../../src/testbed/spec.js';
import { judgeNetBench, type NetBenchVerdict } from '../../src/workload/netbench.js';

/** A PV and a PVH guest that answer pings from outside the box; the first run of these tests boots it. */
const SPEC: BoxSpec = {
  ...DEFAULT_BOX,
  name: 'netbench',
  guests: [
    { name: 'app1', kind: 'pv', memoryMiB: 128, vcpus: 1, work: 'netbench' },
    { name: 'app2', kind: 'pvh', memoryMiB: 128, vcpus: 1, work: 'netbench' },
  ],
};

describe('the network of a box', () => {
  let box: Box;
  let outside: OutsideHost;
  beforeAll(async () => {
    mkdirSync(cacheFolder(), { recursive: true });
    box = await openBox(SPEC, silent);
    outside = box.outside!;
  });
  afterAll(async () => {
    await box?.stop();
  });

  /** On all pings of a few seconds. */
  const pingFor = async (ms: number): Promise<Map<string, NetBenchVerdict>> => {
    outside.resume();
    await sleep(ms);
    outside.pause();
    const judge = (): Map<string, NetBenchVerdict> =>
      new Map(
        outside.neighbours.map((name) => [
          name,
          judgeNetBench(outside.pings(name), { failures: [], holds: outside.holds(), nowMs: performance.now() }),
        ]),
      );
    while ([...judge().values()].some(({ pending }) => pending > 0)) await sleep(50);
    return judge();
  };

  const expectGood = (verdicts: ReadonlyMap<string, NetBenchVerdict>): void => {
    expect([...verdicts.keys()]).toEqual(['app1', 'app2']);
    for (const [, verdict] of verdicts) expect(verdict).toMatchObject({ ok: true, decided: true });
    expect(outside.damagedAnswers).toBe(0);
  };

  it('carries pings from outside to a PV and a PVH guest and back', async () => {
    expectGood(await pingFor(3000));
  });

  it('does so again, from the start, after each restore', async () => {
    for (let i = 0; i < 3; i++) {
      await box.restore();
      expectGood(await pingFor(2500));
    }
  });

  it('keeps pings while the machine stands, which are answered when it goes on', async () => {
    outside.resume();
    await box.machine.freeze();
    await sleep(300);
    const during = outside.pings().filter(({ sentAtMs }) => sentAtMs > performance.now() - 200);
    expect(during.length).toBeGreaterThan(10);
    await sleep(50);
    expect(outside.pings().filter(({ n, answeredAtMs }) => n >= during[0]!.n && answeredAtMs !== undefined)).toEqual(
      [],
    );
    await box.machine.resume();
    expectGood(await pingFor(2000));
  });

  it('shows the VMs at their ordinary work too', () => {
    for (const { name, errors } of box.vms()) expect({ name, errors }).toEqual({ name, errors: 0 });
    expect(box.vms().map(({ name }) => name)).toEqual(['app1', 'app2', 'dom0']);
  });
});
