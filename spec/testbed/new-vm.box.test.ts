import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import type { VmReport } from '../../src/testbed/reports.js';
import { DEFAULT_BOX, SPARE } from '../../src/testbed/spec.js';
import { DISK_STEPS } from '../../src/testbed/unikernel/blkfront.js';
import { mixAfter } from '../../src/testbed/unikernel/mix.js';

/** The default box, but the new VM gets a disk and runs BlkBench. */
describe('the new VM with a disk', () => {
  let box: Box;
  beforeAll(async () => {
    mkdirSync(cacheFolder(), { recursive: true });
    box = await openBox({ ...DEFAULT_BOX, name: 'default-blkbench', newVm: 'blkbench' }, silent);
  });
  afterEach(() => box.restore());
  afterAll(async () => {
    await box?.stop();
  });

  const report = (): VmReport | undefined => box.vms().find((vm) => vm.name === SPARE.name);

  it('is created, and writes and reads all of its 1 MB through blkfront and blkback', async () => {
    const created = await box.createVm();
    expect(created).toMatchObject({ kind: 'created' });
    const end = performance.now() + 60_000;
    while ((report()?.n ?? 0) < DISK_STEPS && performance.now() < end) await sleep(200);
    const { n = 0, ...rest } = report() ?? {};
    expect(n).toBeGreaterThanOrEqual(DISK_STEPS);
    expect(rest).toMatchObject({ errors: 0, note: '-', work: 'blkbench', digest: mixAfter(SPARE.name, n, 'blkbench') });
    // blkback counts what it was asked for: each step writes 128 sectors and reads them.
    const counted = 'cat /sys/bus/xen-backend/devices/vbd-*/statistics/wr_sect';
    expect(Number((await box.dom0.run(counted)).output)).toBeGreaterThanOrEqual(DISK_STEPS * 128);
  });

  it('says so when its disk is damaged under it', async () => {
    expect(await box.createVm()).toMatchObject({ kind: 'created' });
    // Zeros all over the disk, again and again: sooner or later they come between a write and its read.
    await box.dom0.run('while :; do dd if=/dev/zero of=/dev/ram0 bs=64k count=16 conv=fsync; done >/dev/null 2>&1 &');
    const end = performance.now() + 60_000;
    while (report()?.errors === 0 && performance.now() < end) await sleep(200);
    expect(report()).toMatchObject({ note: 'data' });
    expect(report()?.errors).toBeGreaterThan(0);
  });

  it('is not created without a disk behind it, for a reason that is told', async () => {
    await box.dom0.run('rm /dev/ram0');
    const created = await box.createVm(20_000);
    expect(created).toMatchObject({ kind: 'failed', reason: expect.stringContaining('xl create') });
  });

  it('is failed with the reason when its backend does not connect', async () => {
    // A hotplug script that does not tell blkback which device it is.
    await box.dom0.run(
      "printf '#!/bin/sh\\nxenstore-write $XENBUS_PATH/hotplug-status connected' >/etc/xen/scripts/block",
    );
    const created = await box.createVm(30_000);
    expect(created).toMatchObject({ kind: 'failed', reason: expect.stringContaining('block device never connected') });
  });
});
