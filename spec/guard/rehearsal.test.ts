import { beforeEach, describe, expect, it } from 'vitest';
import { rehearse } from '../../src/guard/rehearsal.js';
import { microreset } from '../../src/recover/microreset/index.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

const pagesOf = (xen: FakeXen): string[] =>
  Array.from({ length: xen.physicalSize / 4096 }, (_, frame) => Buffer.from(xen.page(frame)!).toString('latin1'));

describe('a rehearsal', () => {
  it('plans the recovery of a failure, and every kind of repair comes up within a few of them', () => {
    const xen = fake.xen();
    const stage = { facts: readEntryFacts(xen), at: xen.through.bind(xen) };
    const repaired = new Set<string>();
    for (let n = 0; n < 24; n++) {
      const plan = rehearse(stage, fake, microreset);
      expect(plan.cpus.some((cpu) => cpu.abandoned)).toBe(true);
      for (const { name, findings } of plan.steps) if (findings.length > 0) repaired.add(name);
    }
    expect([...repaired]).toEqual(
      expect.arrayContaining(['per-cpu-state', 'static-locks', 'heap-locks', 'scheduling', 'in-service-vectors']),
    );
  });

  it('leaves the healthy box as it is', () => {
    const xen = fake.xen();
    const before = pagesOf(fake);
    const stage = { facts: readEntryFacts(xen), at: xen.through.bind(xen) };
    for (let n = 0; n < 6; n++) rehearse(stage, fake, microreset);
    expect(pagesOf(fake)).toEqual(before);
  });
});
