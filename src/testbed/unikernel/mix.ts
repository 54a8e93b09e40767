/**
 * The chain that the unikernel computes, as a function on values. The state is the digest: eight words of 32 bits. A step
 * stirs the words, leaving a page full of what they were on the way, and then takes that page in again. What the page lost in
 * between is missing from every later digest.
 */
import { createHash } from 'node:crypto';

/** Of the page. */
export const WORDS = 1024;
/** Odd, without a pattern: 2^32 divided by the golden ratio. */
export const FACTOR = 0x9e3779b1;
export const STIR_ROTATION = 13;
export const TAKE_ROTATION = 7;

/** Digest 0: 64 hexadecimal digits. */
export const mixStart = (name: string): string => createHash('sha256').update(`seed ${name}\n`).digest('hex');

export const wordsOf = (digest: string): Uint32Array =>
  Uint32Array.from({ length: 8 }, (_, i) => Number.parseInt(digest.slice(8 * i, 8 * i + 8), 16));

/** Digest `n` from the one before it. */
export function mixNext(digest: string, n: number): string {
  const state = wordsOf(digest);
  const page = new Uint32Array(WORDS);
  state[0]! ^= n;
  for (let i = 0; i < WORDS; i++) {
    const word = stirred(state[i & 7]! ^ state[(i + 1) & 7]!, STIR_ROTATION) + i;
    state[i & 7] = word;
    page[i] = word;
  }
  for (let i = 0; i < WORDS; i++) state[i & 7] = stirred(state[i & 7]! ^ page[i]!, TAKE_ROTATION) + i;
  return [...state].map((word) => word.toString(16).padStart(8, '0')).join('');
}

/** Digest `n` from the begin: some 20 microseconds for each step. */
export function mixAfter(name: string, n: number): string {
  let digest = mixStart(name);
  for (let step = 1; step <= n; step++) digest = mixNext(digest, step);
  return digest;
}

function stirred(word: number, rotation: number): number {
  const product = Math.imul(word, FACTOR);
  return (product << rotation) | (product >>> (32 - rotation));
}
