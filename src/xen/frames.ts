/** Page-frame descriptors: Xen's `frame_table`, one `struct page_info` of 32 bytes for each frame of RAM. */
import { PAGE_SIZE } from '../x86/address.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** Descriptor of the frame with this number. */
export function pageInfo(xen: Xen, frame: number): XenObject {
  return xen.object('page_info', frameTable(xen) + BigInt(frame * xen.sizeOf('page_info')));
}

export const frameTable = (xen: Xen): bigint => BigInt(xen.profile.constant('FRAMETABLE_VIRT_START'));

/** Number of the last frame, plus one. */
export const frameCount = (xen: Xen): number => Number(xen.memory.u64(xen.symbol('max_page')));

/**
 * Frames of which the upper half of `type_info` fits: `(upper & mask) === want`. Looks at whole pages of the table at a
 * time, 8 bytes of every 32.
 */
export function* framesByType(xen: Xen, mask: number, want: number): Generator<number> {
  const size = xen.sizeOf('page_info');
  const perPage = PAGE_SIZE / size;
  const upper = (xen.profile.struct('page_info').field('u.inuse.type_info').offset + 4) / 4;
  const stride = size / 4;
  const total = frameCount(xen);
  const table = frameTable(xen);
  for (let first = 0; first < total; first += perPage) {
    const page = xen.memory.pageAt(table + BigInt(first * size));
    if (page === undefined) continue;
    const words = new Uint32Array(page.buffer, page.byteOffset, PAGE_SIZE / 4);
    for (let n = 0, at = upper; n < perPage; n++, at += stride) {
      if ((words[at]! & mask) >>> 0 === want) yield first + n;
    }
  }
}
