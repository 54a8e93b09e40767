/**
 * The checksum chain of a VM's work, computed by ourselves. Digest 0 is the sha256 of "seed NAME\n". What follows is, for
 * `guest/report.sh`, the sha256 of "DIGEST(n-1) n\nBLOCK\n", and for the unikernel the function in its `mix.ts`.
 */
import { createHash } from 'node:crypto';
import type { VmReport } from '../testbed/reports.js';
import { mixNext } from '../testbed/unikernel/mix.js';
import { workBlock } from '../testbed/work-block.js';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** One point of a chain. */
export interface ChainPoint {
  readonly n: number;
  readonly digest: string;
}

export const chainStart = (name: string): ChainPoint => ({ n: 0, digest: sha256(`seed ${name}\n`) });

export type Work = VmReport['work'];

export function chainNext({ n, digest }: ChainPoint, work: Work = 'files'): ChainPoint {
  const next = n + 1;
  const text = work === 'files' ? sha256(`${digest} ${next}\n${workBlock()}\n`) : mixNext(digest, next, work);
  return { n: next, digest: text };
}

/** Points kept per chain, so that a box which is set back to its snapshot does not cost the way from the seed again. */
const EVERY = 256;

/** Answers kept per chain: a verdict asks for the same ones each time it is made anew. */
const ANSWERS = 4096;

/**
 * Knows the right digest of each step of each VM. Remembers its way: about 20 microseconds for each step it has not seen, at most 256
 * steps for one it has passed, and none for one that it was asked for lately.
 */
export class ChainOracle {
  readonly #chains = new Map<string, Chain>();

  /** The digest that VM `name` must have after step `n` of its work. */
  digest(name: string, n: number, work: Work = 'files'): string {
    const key = `${work} ${name}`;
    const chain = this.#chains.get(key) ?? new Chain(name, work);
    this.#chains.set(key, chain);
    return chain.digest(n);
  }
}

class Chain {
  readonly #work: Work;
  readonly #marks: ChainPoint[];
  readonly #answers = new Map<number, string>();
  #last: ChainPoint;

  constructor(name: string, work: Work) {
    this.#work = work;
    this.#last = chainStart(name);
    this.#marks = [this.#last];
  }

  digest(n: number): string {
    const known = this.#answers.get(n);
    if (known !== undefined) return known;
    let point = this.#nearest(n);
    while (point.n < n) {
      point = chainNext(point, this.#work);
      if (point.n === this.#marks.length * EVERY) this.#marks.push(point);
    }
    this.#last = point;
    if (this.#answers.size >= ANSWERS) this.#answers.clear();
    this.#answers.set(n, point.digest);
    return point.digest;
  }

  #nearest(n: number): ChainPoint {
    const mark = this.#marks[Math.min(this.#marks.length - 1, Math.floor(n / EVERY))]!;
    return this.#last.n <= n && this.#last.n > mark.n ? this.#last : mark;
  }
}
