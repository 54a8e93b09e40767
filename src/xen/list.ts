/** Xen's doubly linked lists (`struct list_head`: next, prev), which a failure may have caught half changed. */
import type { XenMemory } from './memory.js';

export interface ListReading {
  /** Addresses of the nodes in order, the head not among them. Where the list is broken: those reached before. */
  readonly nodes: readonly bigint[];
  readonly broken: string | undefined;
}

const LIMIT = 100_000;

/** Follows a list and checks that it closes and that every `prev` points back. Never throws. */
export function closedList(memory: XenMemory, head: bigint): ListReading {
  const nodes: bigint[] = [];
  const seen = new Set<bigint>();
  let before = head;
  for (let node = memory.u64(head); node !== head; node = memory.u64(node)) {
    if (!memory.isMapped(node) || !memory.isMapped(node + 15n)) return { nodes, broken: 'a link leads nowhere' };
    if (seen.has(node) || nodes.length > LIMIT) return { nodes, broken: 'it runs in a circle' };
    seen.add(node);
    if (memory.u64(node + 8n) !== before) return { nodes, broken: 'a backward link differs from the forward one' };
    nodes.push(node);
    before = node;
  }
  return { nodes, broken: memory.u64(head + 8n) === before ? undefined : 'the head does not point at the last node' };
}
