/** Domains and vCPUs, as Xen's own lists give them (`domain_list`, `domain.vcpu[]`, `idle_vcpu[]`). */
import { NinelivesError } from '../common/errors.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

export type DomainKind = 'pv' | 'hvm' | 'idle';

export interface Vcpu {
  readonly object: XenObject;
  readonly address: bigint;
  readonly id: number;
  readonly domain: Domain;
  /** As Xen prints it: `d1v0`, `d[IDLE]v2`. */
  readonly name: string;
}

export interface Domain {
  readonly object: XenObject;
  readonly address: bigint;
  readonly id: number;
  readonly kind: DomainKind;
  readonly vcpus: readonly Vcpu[];
}

const IDLE_DOMAIN_ID = 0x7fff;
/** More domains or vCPUs than this and the list is not one (16-bit domain ids; MAX_VIRT_CPUS is 8192). */
const DOMAIN_LIMIT = 32_768;
export const VCPU_LIMIT = 8192;

/** Every domain that has an id of its own, in the order of Xen's list, plus the idle domain last. */
export function listDomains(xen: Xen): Domain[] {
  const domains: Domain[] = [];
  const seen = new Set<bigint>();
  for (let at = xen.memory.u64(xen.symbol('domain_list')); at !== 0n; ) {
    if (seen.has(at) || seen.size > DOMAIN_LIMIT) {
      throw new NinelivesError('NL_PROFILE_MISMATCH', 'the domain list does not end');
    }
    seen.add(at);
    const domain = readDomain(xen, at);
    domains.push(domain);
    at = domain.object.u64('next_in_list');
  }
  domains.push(idleDomain(xen));
  return domains;
}

/** All vCPUs of all domains, the idle ones included. */
export const allVcpus = (domains: readonly Domain[]): Vcpu[] => domains.flatMap((domain) => domain.vcpus);

function readDomain(xen: Xen, address: bigint): Domain {
  const object = xen.object('domain', address);
  const id = object.num('domain_id');
  const domain = { object, address, id, kind: domainKind(object), vcpus: [] as Vcpu[] };
  const table = object.u64('vcpu');
  const count = vcpuCount(xen, object, table);
  for (let n = 0; n < count; n++) {
    const at = table === 0n ? 0n : xen.memory.u64(table + BigInt(8 * n));
    if (at !== 0n) domain.vcpus.push(readVcpu(xen, at, domain, n));
  }
  return domain;
}

/** A domain whose number of vCPUs was overwritten has as many as its table names. */
function vcpuCount(xen: Xen, domain: XenObject, table: bigint): number {
  const claimed = domain.num('max_vcpus');
  if (claimed <= VCPU_LIMIT) return claimed;
  let count = 0;
  while (count < VCPU_LIMIT && isVcpuOf(xen, domain, table + BigInt(8 * count))) count++;
  if (count > 0) return count;
  throw new NinelivesError('NL_PROFILE_MISMATCH', `a domain claims ${claimed} vCPUs, and its table names none`);
}

function isVcpuOf(xen: Xen, domain: XenObject, entry: bigint): boolean {
  if (!xen.memory.isMapped(entry)) return false;
  const vcpu = xen.memory.u64(entry);
  return xen.memory.isMapped(vcpu) && xen.object('vcpu', vcpu).u64('domain') === domain.address;
}

/** As Xen prints it: `d1`, `d[IDLE]`. */
export const domainName = ({ id }: Pick<Domain, 'id'>): string => (id === IDLE_DOMAIN_ID ? 'd[IDLE]' : `d${id}`);

/** Address of a CPU's idle vCPU. */
export const idleVcpu = (xen: Xen, cpu: number): bigint => xen.memory.u64(xen.symbol('idle_vcpu') + BigInt(8 * cpu));

function idleDomain(xen: Xen): Domain {
  const first = xen.object('vcpu', idleVcpu(xen, 0));
  const address = first.u64('domain');
  const domain = {
    object: xen.object('domain', address),
    address,
    id: IDLE_DOMAIN_ID,
    kind: 'idle' as const,
    vcpus: [] as Vcpu[],
  };
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    domain.vcpus.push(readVcpu(xen, idleVcpu(xen, cpu), domain, cpu));
  }
  return domain;
}

/** @param id its place in the domain's table: what it says of itself may be damaged */
function readVcpu(xen: Xen, address: bigint, domain: Domain, id: number): Vcpu {
  const object = xen.object('vcpu', address);
  return { object, address, id, domain, name: `${domainName(domain)}v${id}` };
}

/** `XEN_DOMCTL_CDF_hvm` in `domain.options` (public/domctl.h): set for HVM and PVH, clear for PV. */
function domainKind(domain: XenObject): DomainKind {
  return (domain.num('options') & 1) !== 0 ? 'hvm' : 'pv';
}
