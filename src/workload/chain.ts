/**
 * The checksum chain of a VM's work, computed by ourselves. What it has to equal is written by `guest/work.sh`:
 * digest 0 is the sha256 of "seed NAME\n", digest n the sha256 of "DIGEST(n-1) n\nBLOCK\n".
 */
import { createHash } from 'node:crypto';
import { workBlock } from '../testbed/work-block.js';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** One point of a chain. */
export interface ChainPoint {
  readonly n: number;
  readonly digest: string;
}

export const chainStart = (name: string): ChainPoint => ({ n: 0, digest: sha256(`seed ${name}\n`) });

export const chainNext = ({ n, digest }: ChainPoint): ChainPoint => ({
  n: n + 1,
  digest: sha256(`${digest} ${n + 1}\n${workBlock()}\n`),
});

/** Points kept per VM, so that a box which is set back to its snapshot does not cost the way from the seed again. */
const EVERY = 256;

/**
 * Knows the right digest of each step of each VM. Remembers its way: about 20 microseconds for each step it has not seen, at most 256
 * steps for one it has passed.
 */
export class ChainOracle {
  readonly #marks = new Map<string, ChainPoint[]>();
  readonly #last = new Map<string, ChainPoint>();

  /** The digest that VM `name` must have after step `n`. */
  digest(name: string, n: number): string {
    let point = this.#nearest(name, n);
    const marks = this.#marks.get(name) ?? [chainStart(name)];
    this.#marks.set(name, marks);
    while (point.n < n) {
      point = chainNext(point);
      if (point.n === marks.length * EVERY) marks.push(point);
    }
    this.#last.set(name, point);
    return point.digest;
  }

  #nearest(name: string, n: number): ChainPoint {
    const marks = this.#marks.get(name) ?? [chainStart(name)];
    const mark = marks[Math.min(marks.length - 1, Math.floor(n / EVERY))] ?? chainStart(name);
    const last = this.#last.get(name);
    return last && last.n <= n && last.n > mark.n ? last : mark;
  }
}
