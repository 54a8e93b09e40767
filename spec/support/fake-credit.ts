/** Turns a synthetic Xen's scheduler into credit (Xen 4.17, common/sched/credit.c), with all its metadata in agreement. */
import type { FakeVcpu, FakeXen } from './fake-xen.js';

const WEIGHT = 256;

export class FakeCredit {
  readonly data: bigint;
  /** `struct csched_pcpu` of each CPU. */
  readonly cpus: readonly bigint[];
  readonly #fake: FakeXen;
  readonly #svc = new Map<bigint, bigint>();
  readonly #sdom = new Map<bigint, bigint>();

  constructor(fake: FakeXen) {
    this.#fake = fake;
    this.data = fake.new('csched_private');
    const name = fake.alloc(16);
    fake.putBytes(name, Buffer.from('credit\0'));
    const scheduler = fake.get('sched_resource', fake.resources[0]!, 'scheduler');
    fake.set('scheduler', scheduler, 'opt_name', name);
    fake.set('scheduler', scheduler, 'sched_data', this.data);
    fake.set('csched_private', this.data, 'idlers', fake.alloc(32));
    this.cpus = fake.resources.map((resource) => {
      const cpu = fake.new('csched_pcpu');
      fake.set('sched_resource', resource, 'sched_priv', cpu);
      fake.set('csched_pcpu', cpu, 'ticker.status', 3);
      return cpu;
    });
    const guests = [fake.dom0, fake.hvm];
    for (const { domain } of guests) {
      const sdom = fake.new('csched_dom');
      fake.set('domain', domain, 'sched_priv', sdom);
      fake.set('csched_dom', sdom, 'weight', WEIGHT);
      this.#sdom.set(domain, sdom);
    }
    for (const vcpu of [...guests, ...fake.idle]) {
      const svc = fake.new('csched_unit');
      this.#svc.set(vcpu.unit, svc);
      fake.set('sched_unit', vcpu.unit, 'priv', svc);
      fake.set('sched_unit', vcpu.unit, 'state_entry_time', 1_000_000);
      fake.set('csched_unit', svc, 'unit', vcpu.unit);
      fake.set('csched_unit', svc, 'sdom', this.#sdom.get(vcpu.domain) ?? 0n);
      fake.link(this.element(vcpu));
    }
    this.activate([fake.dom0, fake.hvm]);
    this.run([fake.dom0, fake.hvm]);
  }

  svc(vcpu: FakeVcpu): bigint {
    return this.#svc.get(vcpu.unit)!;
  }

  sdom(vcpu: FakeVcpu): bigint {
    return this.#sdom.get(vcpu.domain)!;
  }

  element(vcpu: FakeVcpu): bigint {
    return this.#fake.fieldAt('csched_unit', this.svc(vcpu), 'runq_elem');
  }

  active(vcpu: FakeVcpu): bigint {
    return this.#fake.fieldAt('csched_unit', this.svc(vcpu), 'active_unit_elem');
  }

  runq(cpu: number): bigint {
    return this.#fake.fieldAt('csched_pcpu', this.cpus[cpu]!, 'runq');
  }

  /** Has CPUs run these, one each. A CPU's queue holds its idle unit unless that runs, and after it is told here nobody else. */
  run(vcpus: readonly FakeVcpu[]): void {
    const fake = this.#fake;
    let idlers = 0;
    for (const vcpu of [fake.dom0, fake.hvm, ...fake.idle]) fake.link(this.element(vcpu));
    for (const vcpu of [fake.dom0, fake.hvm])
      fake.set('csched_unit', this.svc(vcpu), 'start_time', vcpus.includes(vcpu) ? 1_000_000 : -5);
    for (const [cpu, vcpu] of vcpus.entries()) {
      fake.run(cpu, vcpu);
      const idle = fake.idle[cpu]!;
      fake.link(this.runq(cpu), vcpu === idle ? [] : [this.element(idle)]);
      fake.set('csched_pcpu', this.cpus[cpu]!, 'nr_runnable', vcpu === idle ? 0 : 1);
      if (vcpu === idle) idlers |= 1 << cpu;
    }
    fake.put(fake.get('csched_private', this.data, 'idlers'), 8, idlers);
  }

  /** Has these take part in the accounting of credits. */
  activate(vcpus: readonly FakeVcpu[]): void {
    const fake = this.#fake;
    const sdoms: bigint[] = [];
    for (const vcpu of [fake.dom0, fake.hvm]) {
      const [sdom, on] = [this.sdom(vcpu), vcpus.includes(vcpu)];
      fake.link(this.active(vcpu));
      const element = fake.fieldAt('csched_dom', sdom, 'active_sdom_elem');
      fake.link(element);
      fake.link(fake.fieldAt('csched_dom', sdom, 'active_unit'), on ? [this.active(vcpu)] : []);
      fake.set('csched_dom', sdom, 'active_unit_count', on ? 1 : 0);
      if (on) sdoms.push(element);
    }
    fake.link(fake.fieldAt('csched_private', this.data, 'active_sdom'), sdoms);
    fake.set('csched_private', this.data, 'weight', WEIGHT * sdoms.length);
  }
}
