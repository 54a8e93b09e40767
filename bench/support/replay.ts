/** Whether a kept capsule gives the plan that was carried out. */
import { loadCapsule } from '../../dist/recover/capsule.js';
import { type Mechanism, makePlan } from '../../dist/recover/mechanism.js';
import type { Recovery } from '../../dist/recover/outcome.js';
import { readEntryFacts } from '../../dist/xen/entry.js';

export function replaysAlike({ capsule, plan }: Recovery, mechanism: Mechanism): boolean {
  if (capsule === undefined) return false;
  const { xen, without } = loadCapsule(capsule);
  const again = makePlan(mechanism, xen, readEntryFacts(xen), { without: new Set(without) });
  return text(again.edits) === text(plan.edits);
}

const text = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => (typeof part === 'bigint' ? part.toString(16) : part));
