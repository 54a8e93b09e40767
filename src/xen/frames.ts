/** Page-frame descriptors: Xen's `frame_table`, one `struct page_info` of 32 bytes for each frame of RAM. */
import { PAGE_SIZE } from '../x86/address.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** Descriptor of the frame with this number. */
export function pageInfo(xen: Xen, frame: number): XenObject {
  return xen.object('page_info', frameTable(xen) + BigInt(frame * xen.sizeOf('page_info')));
}

/** The same for a machine frame number that a guest gave; `undefined` when there is no such frame. */
export function translatePageFrame(xen: Xen, frame: bigint): XenObject | undefined {
  return frame < BigInt(frameCount(xen)) ? pageInfo(xen, Number(frame)) : undefined;
}

export const frameTable = (xen: Xen): bigint => BigInt(xen.profile.constant('FRAMETABLE_VIRT_START'));

/** Number of the last frame, plus one. */
export const frameCount = (xen: Xen): number => Number(xen.memory.u64(xen.symbol('max_page')));

/**
 * Frames whose upper half of `type_info` interests the caller: one pass over the table, 4 bytes of every 32, whole pages
 * at a time. Some 2 ms for 2 GiB of RAM.
 */
export function framesWhere(xen: Xen, interests: (upperTypeInfo: number) => boolean): number[] {
  const found: number[] = [];
  const size = xen.sizeOf('page_info');
  const perPage = PAGE_SIZE / size;
  const first = (xen.profile.struct('page_info').field('u.inuse.type_info').offset + 4) / 4;
  const stride = size / 4;
  const total = frameCount(xen);
  const table = frameTable(xen);
  for (let frame = 0; frame < total; frame += perPage) {
    const page = xen.memory.glanceAt(table + BigInt(frame * size));
    if (page === undefined) continue;
    const words = new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4);
    for (let n = 0, at = first; n < perPage; n++, at += stride) {
      const word = words[at]!;
      if (word !== 0 && interests(word)) found.push(frame + n);
    }
  }
  return found;
}
