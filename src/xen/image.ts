/**
 * Xen's text and read-only data as they were at the attach, after boot had patched them (alternatives, `__ro_after_init`).
 * Nothing of a running Xen writes there, so whatever differs later is damage.
 */
import { PAGE_SIZE } from '../x86/address.js';
import type { Xen } from './xen.js';

const RANGES = [
  ['_stext', '_etext'],
  ['__2M_rodata_start', '__2M_rodata_end'],
] as const;

/** Copies of whole pages, by the virtual address of each. Some 2.5 MiB. */
export type PristineImage = ReadonlyMap<bigint, Buffer>;

export function copyImage(xen: Xen): PristineImage {
  const pages = new Map<bigint, Buffer>();
  for (const [first, last] of RANGES) {
    if (!xen.profile.hasSymbol(first) || !xen.profile.hasSymbol(last)) continue;
    const size = BigInt(PAGE_SIZE);
    for (let at = xen.symbol(first) & -size; at < xen.symbol(last); at += size) {
      const page = xen.memory.glanceAt(at);
      if (page !== undefined) pages.set(at, Buffer.from(page));
    }
  }
  return pages;
}

export interface Damage {
  readonly address: bigint;
  readonly pristine: Uint8Array;
}

/** Runs of bytes that differ from the copy. */
export function* damageOf(xen: Xen, image: PristineImage): Generator<Damage> {
  for (const [at, pristine] of image) {
    const now = xen.memory.glanceAt(at);
    if (now === undefined || pristine.equals(now)) continue;
    for (let n = 0; n < PAGE_SIZE; n++) {
      if (now[n] === pristine[n]) continue;
      const start = n;
      while (n < PAGE_SIZE && now[n] !== pristine[n]) n++;
      yield { address: at + BigInt(start), pristine: Uint8Array.from(pristine.subarray(start, n)) };
    }
  }
}

/** The first byte that differs from the copy; `undefined` when none does. */
export function damagedAt(xen: Xen, image: PristineImage): bigint | undefined {
  const { value } = damageOf(xen, image).next();
  return value?.address;
}
