import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import { setupSpec } from '../../src/testbed/setups.js';
import { allWell, judge, type Sample, type VmVerdict } from '../../src/workload/verdict.js';

/** The setup with most in it: works on disks and with stress-ng, PV and PVH guests, several vCPUs in a guest. */
const SPEC = setupSpec('crowded');
const LIMIT_MS = 60_000;

describe('the crowded box', () => {
  let box: Box;
  beforeAll(async () => {
    mkdirSync(cacheFolder(), { recursive: true });
    box = await openBox(SPEC, silent);
  });
  afterAll(async () => {
    await box?.stop();
  });

  const sample = (): Sample => ({ atMs: performance.now(), vms: box.vms() });
  const expected = [{ name: 'dom0', kind: 'dom0' as const }, ...SPEC.guests.map(({ name, kind }) => ({ name, kind }))];

  /** Waits until all VMs have done some steps. A busy host may take its time; no check of theirs may fail. */
  async function work(): Promise<VmVerdict[]> {
    const before = sample();
    const end = performance.now() + LIMIT_MS;
    for (;;) {
      await sleep(500);
      const verdicts = judge(before, before, [sample()], { expected, steps: 8 });
      if (allWell(verdicts) || performance.now() > end) return verdicts;
    }
  }

  it('has all VMs at verifiable work, from its snapshot too', async () => {
    for (let i = 0; i < 2; i++) {
      const verdicts = await work();
      expect(verdicts).toEqual(
        verdicts.map(({ reason: _, ...verdict }) => ({ ...verdict, alive: true, intact: true })),
      );
      await box.restore();
    }
  });

  it("has a guest's work on a disk go through dom0", async () => {
    const written = async (): Promise<number> => {
      const { status, output } = await box.dom0.run('cat /sys/bus/xen-backend/devices/vbd-*/statistics/wr_req');
      expect(status).toBe(0);
      return Number(output);
    };
    const before = await written();
    await work();
    expect(await written()).toBeGreaterThan(before);
  });

  it('has guests with as many vCPUs as asked for', async () => {
    const { output } = await box.dom0.run('xl list');
    for (const { name, vcpus } of SPEC.guests) {
      const [, , , found] =
        output
          .split('\n')
          .find((line) => line.startsWith(`${name} `))
          ?.split(/\s+/) ?? [];
      expect(Number(found)).toBe(vcpus);
    }
  });
});
