/**
 * All chance in ninelives comes from here, so that a seed repeats every choice. The generator is SplitMix64 (Steele, Lea
 * and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): small, fast, and any seed is a good one.
 */
export class Random {
  #state: bigint;

  constructor(seed: number | bigint) {
    this.#state = BigInt.asUintN(64, BigInt(seed));
  }

  /** 64 random bits. */
  next(): bigint {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e37_79b9_7f4a_7c15n);
    let z = this.#state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn);
    return z ^ (z >> 31n);
  }

  /** A number in [0, 1), with 53 random bits. */
  fraction(): number {
    return Number(this.next() >> 11n) / 2 ** 53;
  }

  /** An integer from `low` to `high`, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.fraction() * (high - low + 1));
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.integer(0, items.length - 1)];
    if (item === undefined) throw new RangeError('nothing to pick from');
    return item;
  }

  /** An independent generator for a numbered part of the work, such as one run of a campaign. */
  static forPart(seed: number | bigint, part: number): Random {
    const mixer = new Random(BigInt(seed) ^ (BigInt(part) * 0xd134_2543_de82_ef95n));
    return new Random(mixer.next());
  }
}
