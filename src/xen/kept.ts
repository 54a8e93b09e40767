/**
 * Pointers that Xen writes when it makes a CPU, a domain or a vCPU, and hardly ever again, tables of functions that it fills at boot,
 * controllers of interrupt lines, and the places where a domain's tree of interrupts leads to what it sees of each, which nothing else
 * tells: copied at the attach. A stray write that hits one of them would otherwise be a failure after every
 * recovery.
 */
import { ifReadable } from './damage.js';
import { allVcpus, type Domain, domainName, listDomains } from './domains.js';
import { isLineController, isPirq, lines, pirqSlots } from './interrupts.js';
import type { XenObject } from './object.js';
import { isRadixRoot } from './radix-tree.js';
import { type CpuStack, cpuStack, onStack } from './stack.js';
import type { Xen } from './xen.js';

export interface KeptWord {
  readonly address: bigint;
  readonly value: bigint;
  /** What it is: "d1v0: vcpu_info". */
  readonly what: string;
  /**
   * Which other values are wrong: all, since it never changes; what cannot be a pointer; what is no controller of interrupt lines; what
   * leads to no node of a tree; what is not the `struct pirq` of that number.
   */
  readonly wrong: 'others' | 'no pointer' | 'no controller' | 'no node' | { readonly pirq: number };
  /** The domain that the structure belongs to, by address and number; absent for what is a CPU's. */
  readonly domain?: { readonly address: bigint; readonly id: number };
}

/** Handlers of interrupts that have a vector of their own, one for each vector (Xen 4.17, arch/x86/irq.c). */
const VECTORS = 256;
const OF_RESOURCE = ['scheduler', 'cpupool', 'schedule_lock', 'sched_unit_idle', 'sched_priv', 'cpus'] as const;
const OF_DOMAIN = [
  ...(['vcpu', 'shared_info', 'cpupool', 'grant_table', 'evtchn', 'evtchn_fifo', 'evtchn_port_ops'] as const),
  ...(['arch.ctxt_switch', 'arch.perdomain_l3_pg', 'arch.cpu_policy'] as const),
] as const;
/** Roots of trees that have grown beyond a single entry, and hardly ever grow again. */
const TREES_OF_DOMAIN = ['pirq_tree.rnode', 'arch.irq_pirq.rnode'] as const;
const OF_PV_DOMAIN = ['arch.pv.gdt_ldt_l1tab'] as const;
const OF_VCPU = [
  ...(['vcpu_info', 'sched_unit', 'evtchn_fifo'] as const),
  ...(['arch.fpu_ctxt', 'arch.xsave_area', 'arch.msrs'] as const),
] as const;
const OF_HVM_VCPU = ['arch.hvm.svm.vmcb', 'arch.hvm.vlapic.regs', 'arch.hvm.vlapic.regs_page'] as const;
const OF_UNIT = ['priv', 'res'] as const;

/** Copies them. What cannot be read, or is 0, is left out. */
export function keepWords(xen: Xen): KeptWord[] {
  const isPointer = pointerCheck(xen);
  const kept: KeptWord[] = [];
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const resource = keep(xen.perCpu('sched_res', cpu), `CPU ${cpu}: sched_res`);
    if (resource !== undefined) keepFields(xen.object('sched_resource', resource), OF_RESOURCE, `CPU ${cpu}`);
    keepFields(xen.object('timers', xen.perCpu('timers', cpu)), ['heap'], `CPU ${cpu}: timers`);
  }
  keepTable('softirq_handlers', Number(xen.profile.constant('NR_SOFTIRQS')));
  keepTable('direct_apic_vector', VECTORS);
  keepTable('time_calibration_rendezvous_fn', 1);
  keepControllers();
  const domains = listDomains(xen);
  for (const { object, address, id, kind } of domains) {
    const fields = [...OF_DOMAIN, ...(kind === 'pv' ? OF_PV_DOMAIN : [])];
    keepFields(object, fields, domainName({ id }), { address, id });
    if (kind === 'idle') continue;
    keepTrees(object, { address, id });
    keepInterrupts(object, { address, id });
  }
  for (const { object, name, domain } of allVcpus(domains)) {
    const owner = { address: domain.address, id: domain.id };
    keepFields(object, [...OF_VCPU, ...(domain.kind === 'hvm' ? OF_HVM_VCPU : [])], name, owner);
    const unit = object.u64('sched_unit');
    if (isPointer(unit)) keepFields(xen.object('sched_unit', unit), OF_UNIT, name, owner);
  }
  return kept;

  function keepFields(object: XenObject, fields: readonly string[], name: string, domain?: KeptWord['domain']): void {
    for (const field of fields) keep(object.at(field), `${name}: ${field}`, domain);
  }

  function keep(address: bigint, what: string, domain?: KeptWord['domain']): bigint | undefined {
    const value = xen.memory.isMapped(address) ? xen.memory.u64(address) : 0n;
    if (!isPointer(value)) return undefined;
    kept.push({ address, value, what, wrong: 'no pointer', ...(domain === undefined ? {} : { domain }) });
    return value;
  }

  function keepTrees(object: XenObject, domain: { readonly address: bigint; readonly id: number }): void {
    for (const field of TREES_OF_DOMAIN) {
      const value = object.u64(field);
      if (!isRadixRoot(xen, value)) continue;
      kept.push({
        address: object.at(field),
        value,
        what: `${domainName(domain)}: ${field}`,
        wrong: 'no node',
        domain,
      });
    }
  }

  /** The tree may have come to grief already. */
  function keepInterrupts(object: XenObject, domain: { readonly address: bigint; readonly id: number }): void {
    for (const [pirq, address] of ifReadable(() => pirqSlots(xen, object)) ?? []) {
      const value = xen.memory.u64(address);
      const what = `${domainName(domain)}: interrupt ${pirq}`;
      if (isPirq(xen, value, pirq)) kept.push({ address, value, what, wrong: { pirq }, domain });
    }
  }

  /** Filled at boot. */
  function keepTable(name: string, words: number): void {
    if (!xen.profile.hasSymbol(name)) return;
    for (let n = 0; n < words; n++) {
      const address = xen.symbol(name) + BigInt(8 * n);
      const value = xen.memory.u64(address);
      if (value !== 0n) kept.push({ address, value, what: `${name}[${n}]`, wrong: 'others' });
    }
  }

  /** Lines of devices that send messages come and go, all others have their controller for good. */
  function keepControllers(): void {
    const none = xen.symbol('no_irq_type');
    for (const { irq, line } of lines(xen)) {
      const value = line.u64('handler');
      if (value === none || !isLineController(xen, value) || line.u64('msi_desc') !== 0n) continue;
      kept.push({ address: line.at('handler'), value, what: `IRQ ${irq}: handler`, wrong: 'no controller' });
    }
  }
}

/** Those that now hold what cannot be right, of CPUs and of domains that are still there. */
export function lostWords(xen: Xen, domains: readonly Domain[], kept: readonly KeptWord[]): KeptWord[] {
  const isPointer = pointerCheck(xen);
  const owners = new Map(domains.map((domain) => [domain.address, domain]));
  const trees = new Map<Domain, ReadonlySet<bigint>>();
  return kept.filter(({ address, value, domain, wrong }) => {
    const owner = domain && owners.get(domain.address);
    if (domain !== undefined && owner?.id !== domain.id) return false;
    if (typeof wrong !== 'string') return isLostInterrupt(owner!, address, value, wrong.pirq);
    if (wrong === 'no controller') return !isLineController(xen, xen.memory.u64(address));
    if (wrong === 'no node') return !isRadixRoot(xen, xen.memory.u64(address)) && isRadixRoot(xen, value);
    if (wrong === 'others') return xen.memory.u64(address) !== value;
    return xen.memory.isMapped(address) && !isPointer(xen.memory.u64(address));
  });

  /** A tree gives up places that it does not need, and what was there is freed: both have to be there still. */
  function isLostInterrupt(owner: Domain, address: bigint, value: bigint, pirq: number): boolean {
    const places = trees.get(owner) ?? new Set(ifReadable(() => pirqSlots(xen, owner.object).values()));
    trees.set(owner, places);
    return places.has(address) && !isPirq(xen, xen.memory.u64(address), pirq) && isPirq(xen, value, pirq);
  }
}

/**
 * Tells whether a word can be a pointer to one of Xen's objects: aligned, mapped, no code, and on no CPU's stack. (What is
 * written over a structure most often is a trap's frame: selectors, flags, and addresses of code and stacks.)
 */
function pointerCheck(xen: Xen): (value: bigint) => boolean {
  const stacks: CpuStack[] = Array.from({ length: xen.cpuCount }, (_, cpu) => cpuStack(xen, cpu));
  return (value) =>
    value % 4n === 0n &&
    xen.memory.isMapped(value) &&
    !xen.profile.isText(value) &&
    !stacks.some((stack) => onStack(stack, value));
}
