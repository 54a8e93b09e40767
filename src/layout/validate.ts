/**
 * Whether layouts read from one build hold for another whose source is not at hand. The other build's machine code is
 * the witness: had a struct changed, the functions that use it would reach for its members at other distances.
 * `docs/design/profiles.md` has the reasoning and the results.
 */
import { type CodeComparison, compareCode, type FunctionDifference } from './compare.js';
import type { ElfFile } from './elf.js';

/** Share of functions and of member accesses that has to be the same in both before anything is concluded. */
export const LEAST_SAME = 0.98;

/**
 * - `same-code`: nothing differs but addresses.
 * - `layouts-hold`: some functions differ, none of them in a way that a moved member would explain.
 * - `doubtful`: members seem to have moved, or too much differs to tell.
 */
export type Verdict = 'same-code' | 'layouts-hold' | 'doubtful';

export interface Validation {
  readonly verdict: Verdict;
  readonly comparison: CodeComparison;
  /** Functions with an instruction that is the same in both builds but for its distance from a base register. */
  readonly shifted: readonly FunctionDifference[];
}

/**
 * @param types the build that the layouts were read from
 * @param stock the build that they are to describe
 */
export function validateLayouts(types: ElfFile, stock: ElfFile): Validation {
  const comparison = compareCode(types, stock);
  const shifted = comparison.different.filter((d) => d.shifted.length > 0);
  const { total, same, different, onlyFirst, onlySecond, all, confirmed } = comparison;
  const enough = same >= total * LEAST_SAME && confirmed.accesses >= all.accesses * LEAST_SAME;
  let verdict: Verdict = 'doubtful';
  if (different.length + onlyFirst.length + onlySecond.length === 0) verdict = 'same-code';
  else if (shifted.length === 0 && enough) verdict = 'layouts-hold';
  return { verdict, comparison, shifted };
}

/** The result as lines for a person. */
export function describeValidation({ verdict, comparison, shifted }: Validation): string[] {
  const { total, same, different, onlyFirst, onlySecond, all, confirmed } = comparison;
  const share = (part: number, whole: number): string =>
    `${part} of ${whole} (${whole === 0 ? '-' : ((100 * part) / whole).toFixed(1)} %)`;
  const lines = [
    `functions that are the same but for addresses: ${share(same, total)}`,
    `member accesses at the same distance in both: ${share(confirmed.accesses, all.accesses)}, ${share(confirmed.distances, all.distances)} different distances`,
    `functions that differ: ${different.length}; in one build only: ${onlyFirst.length + onlySecond.length}`,
    `functions with accesses that moved: ${shifted.length}`,
  ];
  for (const d of shifted.slice(0, 20)) {
    const moves = d.shifted.slice(0, 4).map((s) => `${s.first} -> ${s.second}`);
    lines.push(`  ${d.name}: ${moves.join(', ')}${d.shifted.length > 4 ? `, ${d.shifted.length - 4} more` : ''}`);
  }
  lines.push(`verdict: ${verdict}`);
  return lines;
}
