import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';
import { allWell, judge, type Sample } from '../../src/workload/verdict.js';

/** The default box, from its snapshot where there is one: the first run of these tests boots it. */
describe('the box', () => {
  let box: Box;
  beforeAll(async () => {
    mkdirSync(cacheFolder(), { recursive: true });
    box = await openBox(DEFAULT_BOX, silent);
  });
  afterAll(async () => {
    await box?.stop();
  });

  const sample = (): Sample => ({ atMs: performance.now(), vms: box.vms() });
  const expected = [
    { name: 'dom0', kind: 'dom0' as const },
    ...DEFAULT_BOX.guests.map(({ name, kind }) => ({ name, kind })),
  ];

  it('has all VMs at verifiable work', async () => {
    const before = sample();
    await sleep(10_000);
    const verdicts = judge(before, before, [sample()], { expected });
    expect(verdicts).toEqual(verdicts.map((verdict) => ({ ...verdict, alive: true, intact: true })));
    expect(allWell(verdicts)).toBe(true);
  });

  it('lets dom0 be asked', async () => {
    const answer = await box.dom0.run('xl list');
    expect(answer.status).toBe(0);
    for (const { name } of DEFAULT_BOX.guests) expect(answer.output).toContain(name);
    expect((await box.dom0.run('exit 7')).status).toBe(7);
  });

  it('creates a new VM, which works', async () => {
    expect(await box.createVm()).toMatchObject({ kind: 'created' });
    expect(box.vms().map((vm) => vm.name)).toContain('new1');
  });

  it('is what it was after a restore, and goes on', async () => {
    await box.restore();
    expect((await box.dom0.run('xl list')).output).not.toContain('new1');
    const before = sample();
    expect(before.vms.map((vm) => vm.name)).not.toContain('new1');
    await sleep(10_000);
    expect(allWell(judge(before, before, [sample()], { expected }))).toBe(true);
  });
});
