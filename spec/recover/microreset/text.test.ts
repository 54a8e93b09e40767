import { expect, it } from 'vitest';
import { makePlan } from '../../../src/recover/mechanism.js';
import { text } from '../../../src/recover/microreset/text.js';
import { readEntryFacts } from '../../../src/xen/entry.js';
import { copyImage } from '../../../src/xen/image.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

it('puts back what differs from the copy, and nothing else', () => {
  const fake = new FakeXen();
  const facts = { ...readEntryFacts(fake.xen()), image: copyImage(fake.xen()) };
  const plan = () => makePlan({ name: 'test', steps: [text] }, fake.xen(), facts);
  expect(plan().edits).toEqual([]);
  const at = fake.symbol('do_sched_op') + 4n;
  const before = fake.xen().memory.bytes(at, 3);
  fake.putBytes(at, [before[0]! ^ 1, before[1]!, before[2]! ^ 0x80]);
  expect(plan().edits).toMatchObject([
    { kind: 'text', address: at, after: before.subarray(0, 1) },
    { kind: 'text', address: at + 2n, after: before.subarray(2) },
  ]);
  expect(plan().steps[0]!.findings[0]).toBe('1 bytes at do_sched_op+0x4 were damaged');
});

it('does nothing where text was compared since the machine stopped', () => {
  const fake = new FakeXen();
  const facts = { ...readEntryFacts(fake.xen()), image: copyImage(fake.xen()) };
  fake.putBytes(fake.symbol('do_sched_op'), [0xff]);
  const planOf = (textIsSound: boolean) =>
    makePlan({ name: 'test', steps: [text] }, fake.xen(), facts, { textIsSound }).edits.length;
  expect([planOf(false), planOf(true)]).toEqual([1, 0]);
});

it('does nothing where there is no copy to compare with', () => {
  expect(planWith(new FakeXen(), text).plan.edits).toEqual([]);
});
