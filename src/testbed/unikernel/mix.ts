/**
 * The chain that the unikernel computes, as a function on values. The state is the digest: eight words of 32 bits. A step
 * stirs the words, leaving pages full of what they were on the way, and then takes those pages in again: first the last one, which stayed in
 * memory, then the others, which have been on the disk. What any of them lost in between is missing from every later digest.
 */
import { createHash } from 'node:crypto';
import { DISK_PAGES, PAGE } from './layout.js';

/** `mix` is one page in memory; `blkbench` has some on a disk, too. */
export type UnikernelWork = 'mix' | 'blkbench';

/** Of a page. */
const WORDS = PAGE / 4;
/** Words that a step leaves behind. */
export const wordsIn = (work: UnikernelWork): number => WORDS * (work === 'mix' ? 1 : 1 + DISK_PAGES);

/** Odd, without a pattern: 2^32 divided by the golden ratio. */
export const FACTOR = 0x9e3779b1;
export const STIR_ROTATION = 13;
export const TAKE_ROTATION = 7;

/** Digest 0: 64 hexadecimal digits. */
export const mixStart = (name: string): string => createHash('sha256').update(`seed ${name}\n`).digest('hex');

export const wordsOf = (digest: string): Uint32Array =>
  Uint32Array.from({ length: 8 }, (_, i) => Number.parseInt(digest.slice(8 * i, 8 * i + 8), 16));

/** Digest `n` from the one before it: some 20 microseconds for `mix`, 300 for `blkbench`. */
export function mixNext(digest: string, n: number, work: UnikernelWork): string {
  const state = wordsOf(digest);
  const pages = new Uint32Array(wordsIn(work));
  state[0]! ^= n;
  for (let i = 0; i < pages.length; i++) {
    const word = stirred(state[i & 7]! ^ state[(i + 1) & 7]!, STIR_ROTATION) + i;
    state[i & 7] = word;
    pages[i] = word;
  }
  const onDisk = pages.length - WORDS;
  for (let i = 0; i < pages.length; i++) {
    const word = pages[i < WORDS ? onDisk + i : i - WORDS]!;
    state[i & 7] = stirred(state[i & 7]! ^ word, TAKE_ROTATION) + i;
  }
  return [...state].map((word) => word.toString(16).padStart(8, '0')).join('');
}

/** Digest `n` from the begin. */
export function mixAfter(name: string, n: number, work: UnikernelWork): string {
  let digest = mixStart(name);
  for (let step = 1; step <= n; step++) digest = mixNext(digest, step, work);
  return digest;
}

function stirred(word: number, rotation: number): number {
  const product = Math.imul(word, FACTOR);
  return (product << rotation) | (product >>> (32 - rotation));
}
