/**
 * Text and read-only data that are not what they were when the guard attached, seen before anybody fails for it. A flipped bit in
 * the code by which guests enter and leave Xen changes guests' registers each time, thousands of times a second, and by the time
 * that Xen itself fails there may be nothing left that tells what they were. So that code is compared at each look, all else piece
 * by piece, as memory scrubbers do. Nothing of a running Xen changes its text but live patching.
 */
import { damagedAt, type PristineImage } from '../xen/image.js';
import type { Xen } from '../xen/xen.js';

/** Pages compared with each look besides those of the entry code: all of an image of 2.5 MiB in 80 looks. */
const PAGES_PER_LOOK = 8;

export class TextWatch {
  readonly #xen: Xen;
  readonly #entry: PristineImage;
  readonly #others: readonly PristineImage[];
  #next = 0;

  constructor(xen: Xen, image: PristineImage) {
    this.#xen = xen;
    const bound = (name: string): bigint => (xen.profile.hasSymbol(name) ? xen.symbol(name) : 0n);
    const [first, last] = [bound('_stextentry'), bound('_etextentry')];
    const isEntry = ([at]: readonly [bigint, Buffer]): boolean => at >= first && at < last;
    const pages = [...image];
    this.#entry = new Map(pages.filter(isEntry));
    const others = pages.filter((page) => !isEntry(page));
    this.#others = Array.from(
      { length: Math.ceil(others.length / PAGES_PER_LOOK) },
      (_, n) => new Map(others.slice(n * PAGES_PER_LOOK, (n + 1) * PAGES_PER_LOOK)),
    );
  }

  /** One look at the running machine: the address of a byte that is not what it was. */
  look(): bigint | undefined {
    const entry = damagedAt(this.#xen, this.#entry);
    if (entry !== undefined || this.#others.length === 0) return entry;
    const piece = this.#others[this.#next]!;
    this.#next = (this.#next + 1) % this.#others.length;
    return damagedAt(this.#xen, piece);
  }
}
