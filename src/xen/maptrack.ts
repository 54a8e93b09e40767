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
