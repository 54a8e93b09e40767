/** A live box whose Xen we know: the machine, the profile that fits it, and what was derived from its entry code. */
import type { Machine } from '../machine/machine.js';
import type { View } from '../x86/view.js';
import { type EntryFacts, readEntryFacts } from '../xen/entry.js';
import { copyImage } from '../xen/image.js';
import { keepWords } from '../xen/kept.js';
import { locateXen } from '../xen/locate.js';
import type { Xen } from '../xen/xen.js';

export interface Target {
  readonly machine: Machine;
  /** Xen as of the attach; `at` gives it as of a later freeze. */
  readonly xen: Xen;
  readonly facts: EntryFacts;
  /** The same Xen seen through a newer view. */
  at(view: View): Xen;
}

/**
 * Finds Xen in the frozen machine and verifies its profile.
 * @throws NL_XEN_NOT_FOUND, NL_PROFILE_UNKNOWN, NL_PROFILE_MISMATCH
 */
export async function findTarget(machine: Machine, profileDir?: string): Promise<Target> {
  const xen = locateXen(await machine.capture(), profileDir);
  const facts = { ...readEntryFacts(xen), image: copyImage(xen), kept: keepWords(xen) };
  return { machine, xen, facts, at: (view) => xen.through(view) };
}
