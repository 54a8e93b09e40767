/** Xen's radix trees (Xen 4.17, common/radix-tree.c): nodes of 64 slots, the lowest six bits of an index in the lowest level. */
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

const INDEX_BITS = 6;
/** Marks the root's pointer as one to a node; otherwise it is the entry with index 0 itself. */
const INDIRECT = 1n;
/** More levels than a 64-bit index can have are damage. */
const HEIGHT_LIMIT = 11;
/** How entries that are numbers and not pointers are stored. */
const NUMBER_SHIFT = 2n;

/** The entry at `index` of the tree whose `radix_tree_root` this is; 0 where there is none. @throws NL_UNMAPPED */
export function radixEntry(xen: Xen, root: XenObject, index: number): bigint {
  const first = root.u64('rnode');
  if ((first & INDIRECT) === 0n) return index === 0 ? first : 0n;
  let node = first & ~INDIRECT;
  const height = xen.object('radix_tree_node', node).num('height');
  if (height > HEIGHT_LIMIT || index >= 2 ** (INDEX_BITS * height)) return 0n;
  for (let level = height - 1; level >= 0 && node !== 0n; level--) {
    const slot = Math.floor(index / 2 ** (INDEX_BITS * level)) % 2 ** INDEX_BITS;
    node = xen.memory.u64(xen.object('radix_tree_node', node).at('slots'), 8 * slot);
  }
  return node;
}

/** An entry that is a number. */
export const radixNumber = (entry: bigint): number => Number(BigInt.asIntN(64, entry) >> NUMBER_SHIFT);
