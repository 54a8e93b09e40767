/** What the tests of steps share: one step, tried on a synthetic Xen. */
import { makePlan } from '../../src/recover/mechanism.js';
import { Overlay } from '../../src/recover/overlay.js';
import type { Edit, Plan } from '../../src/recover/plan.js';
import type { Step } from '../../src/recover/step.js';
import { physical } from '../../src/x86/address.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import type { Xen } from '../../src/xen/xen.js';
import type { FakeXen } from '../support/fake-xen.js';

export interface Outcome {
  readonly plan: Plan;
  /** What the steps found, the audit not among them. */
  readonly findings: readonly string[];
  /** Edits of memory. */
  readonly writes: readonly (Edit & { kind: 'memory' })[];
  readonly calls: readonly (Edit & { kind: 'call' })[];
  /** Xen as it is once the plan's memory edits have been carried out. */
  readonly after: Xen;
}

/** Plans with these steps alone. */
export function planWith(fake: FakeXen, ...steps: Step[]): Outcome {
  const xen = fake.xen();
  const plan = makePlan({ name: 'test', steps }, xen, readEntryFacts(xen), { scope: 'everything' });
  const overlay = new Overlay(fake);
  const writes = plan.edits.filter((edit) => edit.kind === 'memory');
  for (const { address, after } of writes) {
    for (const [n, byte] of after.entries()) {
      overlay.write(physical(xen.memory.physicalAddress(address + BigInt(n))), Uint8Array.of(byte));
    }
  }
  return {
    plan,
    writes,
    findings: plan.steps.filter((step) => step.name !== 'audit').flatMap((step) => step.findings),
    calls: plan.edits.filter((edit) => edit.kind === 'call'),
    after: fake.xen(overlay),
  };
}
