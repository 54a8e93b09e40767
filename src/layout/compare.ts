/**
 * Compares the code of two builds of Xen function by function. Equal code that touches memory at equal distances from
 * its base registers shows that both builds lay their structures out alike; only addresses may differ.
 */
import { codeBlocks } from './code-blocks.js';
import type { ElfFile } from './elf.js';
import { type NormalInstruction, Normalizer } from './normal-code.js';

/** Memory accesses at a distance from a base register other than the stack pointer: what depends on struct layouts. */
export interface AccessCount {
  readonly accesses: number;
  /** Different distances among them. */
  readonly distances: number;
}

/** The same instruction in both builds, but for the distance from its base register: a member that moved, perhaps. */
export interface ShiftedAccess {
  readonly first: bigint;
  readonly second: bigint;
  /** Offset of the instruction in the second build's function, bytes. */
  readonly at: number;
}

export interface FunctionDifference {
  readonly name: string;
  /** Instructions in either build. */
  readonly firstInstructions: number;
  readonly secondInstructions: number;
  /** Instructions that could be aligned one to one. */
  readonly aligned: number;
  readonly shifted: readonly ShiftedAccess[];
  /** Distances from base registers that only one of the two builds uses in this function. */
  readonly onlyFirst: readonly bigint[];
  readonly onlySecond: readonly bigint[];
}

export interface CodeComparison {
  /** Functions and assembly routines of the second build. */
  readonly total: number;
  /** Those whose instructions are the same in both but for the addresses of code and data. */
  readonly same: number;
  readonly different: readonly FunctionDifference[];
  readonly onlyFirst: readonly string[];
  readonly onlySecond: readonly string[];
  /** Accesses of the second build, all of them. */
  readonly all: AccessCount;
  /** Those at the same distance in the first: in equal functions, and where the others could be aligned. */
  readonly confirmed: AccessCount;
}

/**
 * Decodes and compares all code of two Xen images; about five seconds. Calls and references to variables must go to
 * the same name at the same offset; strings and tables without a name in read-only data may lie anywhere.
 * @param first the build whose layouts are known
 * @param second the build that they are to be used for
 */
export function compareCode(first: ElfFile, second: ElfFile): CodeComparison {
  const before = codeBlocks(first);
  const after = codeBlocks(second);
  const normalFirst = new Normalizer(first);
  const normalSecond = new Normalizer(second);
  const all = new Accesses();
  const confirmed = new Accesses();
  const different: FunctionDifference[] = [];
  const onlySecond: string[] = [];
  let same = 0;
  for (const [key, block] of after) {
    const code = normalSecond.normalize(block);
    all.add(code);
    const other = before.get(key);
    if (other === undefined) {
      onlySecond.push(key);
      continue;
    }
    const otherCode = normalFirst.normalize(other);
    if (otherCode.length === code.length && code.every((c, i) => c.text === otherCode[i]!.text)) {
      same++;
      confirmed.add(code);
    } else {
      const pairs = align(otherCode, code);
      confirmed.add(pairs.filter(([a, b]) => a.distance === b.distance).map(([, b]) => b));
      different.push(describe(key, otherCode, code, pairs));
    }
  }
  return {
    total: after.size,
    same,
    different,
    onlyFirst: [...before.keys()].filter((key) => !after.has(key)),
    onlySecond,
    all: all.count,
    confirmed: confirmed.count,
  };
}

class Accesses {
  #accesses = 0;
  readonly #distances = new Set<bigint>();

  add(code: readonly NormalInstruction[]): void {
    for (const { distance } of code)
      if (distance !== undefined) {
        this.#accesses++;
        this.#distances.add(distance);
      }
  }

  get count(): AccessCount {
    return { accesses: this.#accesses, distances: this.#distances.size };
  }
}

function describe(
  name: string,
  first: readonly NormalInstruction[],
  second: readonly NormalInstruction[],
  pairs: readonly (readonly [NormalInstruction, NormalInstruction])[],
): FunctionDifference {
  const shifted = pairs
    .filter(([a, b]) => a.distance !== b.distance)
    .map(([a, b]) => ({ first: a.distance ?? 0n, second: b.distance ?? 0n, at: b.offset }));
  const distances = (code: readonly NormalInstruction[]): Set<bigint> =>
    new Set(code.map((c) => c.distance).filter((d) => d !== undefined));
  const [one, two] = [distances(first), distances(second)];
  return {
    name,
    firstInstructions: first.length,
    secondInstructions: second.length,
    aligned: pairs.length,
    shifted,
    onlyFirst: [...one].filter((d) => !two.has(d)),
    onlySecond: [...two].filter((d) => !one.has(d)),
  };
}

/** A longest common subsequence of the two by shape (the instruction without its distance), as pairs. */
function align(
  first: readonly NormalInstruction[],
  second: readonly NormalInstruction[],
): [NormalInstruction, NormalInstruction][] {
  const pairs: [NormalInstruction, NormalInstruction][] = [];
  let from = 0;
  while (from < first.length && from < second.length && first[from]!.shape === second[from]!.shape) {
    pairs.push([first[from]!, second[from]!]);
    from++;
  }
  let tail = 0;
  while (
    tail < first.length - from &&
    tail < second.length - from &&
    first[first.length - 1 - tail]!.shape === second[second.length - 1 - tail]!.shape
  )
    tail++;
  const [rows, columns] = [first.length - from - tail, second.length - from - tail];
  const width = columns + 1;
  const length = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--)
    for (let j = columns - 1; j >= 0; j--)
      length[i * width + j] =
        first[from + i]!.shape === second[from + j]!.shape
          ? length[(i + 1) * width + j + 1]! + 1
          : Math.max(length[(i + 1) * width + j]!, length[i * width + j + 1]!);
  for (let i = 0, j = 0; i < rows && j < columns; )
    if (first[from + i]!.shape === second[from + j]!.shape) pairs.push([first[from + i++]!, second[from + j++]!]);
    else if (length[(i + 1) * width + j]! >= length[i * width + j + 1]!) i++;
    else j++;
  for (let k = tail; k > 0; k--) pairs.push([first[first.length - k]!, second[second.length - k]!]);
  return pairs;
}
