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
  const slot = radixSlot(xen, root, index);
  return slot === undefined ? 0n : xen.memory.u64(slot);
}

/** Where that entry stands; `undefined` where the tree has no place for it. @throws NL_UNMAPPED */
export function radixSlot(xen: Xen, root: XenObject, index: number): bigint | undefined {
  const first = root.u64('rnode');
  if ((first & INDIRECT) === 0n) return index === 0 ? root.at('rnode') : undefined;
  let node = first & ~INDIRECT;
  const height = xen.object('radix_tree_node', node).num('height');
  if (height === 0 || height > HEIGHT_LIMIT || index >= 2 ** (INDEX_BITS * height)) return undefined;
  for (let level = height - 1; level > 0; level--) {
    node = xen.memory.u64(slotOf(xen, node, Math.floor(index / 2 ** (INDEX_BITS * level)) % 2 ** INDEX_BITS));
    if (node === 0n) return undefined;
  }
  return slotOf(xen, node, index % 2 ** INDEX_BITS);
}

/** Index and place of every entry that is not 0. @throws NL_UNMAPPED */
export function* radixSlots(xen: Xen, root: XenObject): Generator<[index: number, slot: bigint]> {
  const first = root.u64('rnode');
  if ((first & INDIRECT) === 0n) {
    if (first !== 0n) yield [0, root.at('rnode')];
    return;
  }
  const node = first & ~INDIRECT;
  yield* slotsUnder(xen, node, xen.object('radix_tree_node', node).num('height'), 0);
}

/** Of a node with as many levels, whose first entry has the index `from`. */
function* slotsUnder(xen: Xen, node: bigint, levels: number, from: number): Generator<[index: number, slot: bigint]> {
  if (levels === 0 || levels > HEIGHT_LIMIT) return;
  for (let n = 0; n < 2 ** INDEX_BITS; n++) {
    const slot = slotOf(xen, node, n);
    const entry = xen.memory.u64(slot);
    if (entry === 0n) continue;
    const index = from + n * 2 ** (INDEX_BITS * (levels - 1));
    if (levels === 1) yield [index, slot];
    else yield* slotsUnder(xen, entry, levels - 1, index);
  }
}

const slotOf = (xen: Xen, node: bigint, n: number): bigint =>
  xen.object('radix_tree_node', node).at('slots') + BigInt(8 * n);

/** Whether a root's pointer leads to a node. */
export function isRadixRoot(xen: Xen, rnode: bigint): boolean {
  const node = rnode & ~INDIRECT;
  if ((rnode & INDIRECT) === 0n || node % 8n !== 0n || !xen.memory.isMapped(node)) return false;
  const height = xen.object('radix_tree_node', node).num('height');
  return height > 0 && height <= HEIGHT_LIMIT;
}

/** An entry that is a number. */
export const radixNumber = (entry: bigint): number => Number(BigInt.asIntN(64, entry) >> NUMBER_SHIFT);
