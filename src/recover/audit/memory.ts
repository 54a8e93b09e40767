/** Free memory. */
import { PageHeap } from '../../xen/page-heap.js';
import type { Xen } from '../../xen/xen.js';
import type { AuditPart } from './part.js';

const STEP = 'page-allocator';
/** MAX_NUMNODES */
const MOST_NODES = 64;

/** Lists of free memory that the plan changes are closed; whether others are was seen before. */
export const freeLists: AuditPart = {
  name: 'lists of free memory',
  run({ plan, xen, givenUp }) {
    if (!plan.edits.some(({ step }) => step === STEP) && !givenUp.has(STEP)) return;
    for (const { zone, order, broken } of new PageHeap(xen).read().lists) {
      if (broken !== undefined) plan.problem(`free blocks of zone ${zone}, order ${order}: ${broken}`);
    }
  },
};

/** Xen takes from a zone what its count promises. */
export const freePages: AuditPart = {
  name: 'counts of free memory',
  run({ plan, xen }) {
    const { zones } = new PageHeap(xen);
    let total = 0n;
    for (const [node, counts] of words(xen, xen.symbol('avail'), MOST_NODES).entries()) {
      if (counts === 0n) continue;
      for (const [zone, pages] of words(xen, BigInt.asUintN(64, counts), zones).entries()) {
        if (pages < 0n) plan.problem(`zone ${zone} would have ${pages} free pages`);
        total += pages;
      }
      const dirty = xen.memory.i64(xen.symbol('node_need_scrub'), 8 * node);
      if (dirty < 0n) plan.problem(`${dirty} free pages of node ${node} would have to be scrubbed`);
    }
    const said = xen.memory.i64(xen.symbol('total_avail_pages'));
    if (said !== total) plan.problem(`${said} pages would be free, and ${total} by the zones`);
    const claimed = xen.memory.i64(xen.symbol('outstanding_claims'));
    if (claimed < 0n) plan.problem(`${claimed} pages would be claimed`);
  },
};

/** Many words at once, which is cheaper than one after the other. */
function words({ memory }: Xen, address: bigint, count: number): BigInt64Array {
  return new BigInt64Array(memory.bytes(address, 8 * count).buffer);
}
