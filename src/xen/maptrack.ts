/** Which grants a domain has mapped (Xen 4.17, common/grant_table.c: `maptrack`). */
import { PAGE_SIZE } from '../x86/address.js';
import type { Domain } from './domains.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** The entry behind a handle that the domain was given; `undefined` when there is no such handle. */
export function maptrackEntry(xen: Xen, domain: Domain, handle: number): XenObject | undefined {
  const address = domain.object.u64('grant_table');
  if (address === 0n) return undefined;
  const table = xen.object('grant_table', address);
  const pages = table.u64('maptrack');
  if (pages === 0n || handle >= table.num('maptrack_limit')) return undefined;
  const size = xen.sizeOf('grant_mapping');
  const perPage = Math.floor(PAGE_SIZE / size);
  const page = xen.memory.u64(pages + BigInt(8 * Math.floor(handle / perPage)));
  return page === 0n ? undefined : xen.object('grant_mapping', page + BigInt((handle % perPage) * size));
}

/** One entry of the table: a grant of domain `granter`, and how it is mapped (`GNTMAP_…`). */
export interface MappedGrant {
  readonly granter: number;
  readonly ref: number;
  readonly flags: number;
}

/** Everything in a domain's table, entries that map nothing included: their flags say so. */
export function* maptrackEntries(xen: Xen, domain: Domain): Generator<MappedGrant> {
  const address = domain.object.u64('grant_table');
  if (address === 0n) return;
  const table = xen.object('grant_table', address);
  const limit = table.num('maptrack_limit');
  const layout = xen.profile.struct('grant_mapping');
  const [ref, flags, domid] = ['ref', 'flags', 'domid'].map((name) => layout.field(name).offset);
  const perPage = Math.floor(PAGE_SIZE / layout.size);
  for (let first = 0; first < limit; first += perPage) {
    const page = xen.memory.u64(table.u64('maptrack') + BigInt(8 * (first / perPage)));
    const bytes = xen.memory.bytes(page, PAGE_SIZE);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (let n = 0; n < perPage && first + n < limit; n++) {
      const at = n * layout.size;
      yield {
        granter: view.getUint16(at + domid!, true),
        ref: view.getUint32(at + ref!, true),
        flags: view.getUint16(at + flags!, true),
      };
    }
  }
}
