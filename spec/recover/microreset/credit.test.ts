import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import { scheduling } from '../../../src/recover/microreset/scheduling.js';
import { closedList } from '../../../src/xen/list.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakeCredit } from '../../support/fake-credit.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
let credit: FakeCredit;
beforeEach(() => {
  fake = new FakeXen();
  credit = new FakeCredit(fake);
});

const queue = (xen: Xen, cpu: number) => closedList(xen.memory, credit.runq(cpu));
const idleOnly = (cpu: number) => ({ nodes: [credit.element(fake.idle[cpu]!)], broken: undefined });
const at = (xen: Xen, struct: string, address: bigint) => xen.object(struct, address);

describe('scheduling under credit', () => {
  it('changes nothing where all copies agree', () => {
    expect(planWith(fake, scheduling)).toMatchObject({ findings: [], writes: [] });
    credit.run([fake.dom0, fake.idle[1]!]);
    credit.activate([fake.dom0]);
    expect(planWith(fake, scheduling)).toMatchObject({ findings: [], writes: [] });
  });

  it('takes a running unit off its queue', () => {
    fake.link(credit.runq(0), [credit.element(fake.dom0), credit.element(fake.idle[0]!)]);
    const { after } = planWith(fake, scheduling);
    expect(queue(after, 0)).toEqual(idleOnly(0));
    expect(after.memory.u64(credit.element(fake.dom0))).toBe(credit.element(fake.dom0));
  });

  it('gives every CPU its idle unit to run, which nobody would wake', () => {
    fake.link(credit.runq(0));
    fake.link(credit.element(fake.idle[0]!));
    const { after, findings } = planWith(fake, scheduling);
    expect(queue(after, 0)).toEqual(idleOnly(0));
    expect(findings).toEqual(['run queue of CPU 0: it does not hold what waits there; linked anew']);
  });

  it('counts who runs or waits, and notes which CPUs are idle', () => {
    credit.run([fake.dom0, fake.idle[1]!]);
    fake.link(credit.runq(1), [credit.element(fake.hvm)]);
    for (const cpu of credit.cpus) fake.set('csched_pcpu', cpu, 'nr_runnable', 0xffff_ffff);
    fake.put(fake.get('csched_private', credit.data, 'idlers'), 8, 1);
    const { after } = planWith(fake, scheduling);
    expect(credit.cpus.map((cpu) => at(after, 'csched_pcpu', cpu).num('nr_runnable'))).toEqual([1, 1]);
    expect(queue(after, 1).nodes).toEqual([credit.element(fake.hvm)]);
    expect(after.memory.u64(fake.get('csched_private', credit.data, 'idlers'))).toBe(2n);
  });

  it.each([
    ['nobody is charged for the time since the boot', [1_000_000, -20], [1_000_000n, -20n]],
    ['of who was to run and does not, nothing is kept', [1_000_000, 1_000_000], [1_000_000n, 0n]],
    ['of who runs, a time', [-20, -20], [1_000_000n, -20n]],
  ])('%s', (_, [running, waiting], expected) => {
    credit.run([fake.dom0, fake.idle[1]!]);
    fake.set('csched_unit', credit.svc(fake.dom0), 'start_time', running!);
    fake.set('csched_unit', credit.svc(fake.hvm), 'start_time', waiting!);
    const { after } = planWith(fake, scheduling);
    const times = [fake.dom0, fake.hvm].map((vcpu) => at(after, 'csched_unit', credit.svc(vcpu)).i64('start_time'));
    expect(times).toEqual(expected);
  });

  it('has a CPU tick that was on its way from its idle unit to another', () => {
    fake.enterXen(0, 'csched_schedule');
    fake.set('csched_pcpu', credit.cpus[0]!, 'ticker.status', 1);
    fake.set('csched_pcpu', credit.cpus[1]!, 'ticker.status', 1);
    const ticker = fake.fieldAt('csched_pcpu', credit.cpus[0]!, 'ticker');
    expect(planWith(fake, scheduling).calls).toMatchObject([
      { cpu: 0, function: 'set_timer', arguments: [ticker, 1_000_000n] },
    ]);
  });

  it('sums up the weights anew', () => {
    fake.set('csched_private', credit.data, 'weight', 5);
    fake.set('csched_dom', credit.sdom(fake.hvm), 'active_unit_count', 0);
    const { after } = planWith(fake, scheduling);
    expect(at(after, 'csched_private', credit.data).num('weight')).toBe(512);
    expect(at(after, 'csched_dom', credit.sdom(fake.hvm)).num('active_unit_count')).toBe(1);
  });

  it('keeps a domain that is being destroyed and is on the list still', () => {
    const dying = fake.new('csched_dom');
    fake.set('csched_dom', dying, 'weight', 100);
    fake.set('csched_dom', dying, 'active_unit_count', 2);
    const element = (sdom: bigint) => fake.fieldAt('csched_dom', sdom, 'active_sdom_elem');
    const list = fake.fieldAt('csched_private', credit.data, 'active_sdom');
    fake.link(list, [element(dying), element(credit.sdom(fake.dom0)), element(credit.sdom(fake.hvm))]);
    const { after } = planWith(fake, scheduling);
    expect(closedList(after.memory, list).nodes).toContain(element(dying));
    expect(at(after, 'csched_private', credit.data).num('weight')).toBe(712);
  });

  it('makes of any list of which one link is wrong a closed one, with everybody where he belongs', () => {
    credit.run([fake.dom0, fake.idle[1]!]);
    const sdomElement = (sdom: bigint) => fake.fieldAt('csched_dom', sdom, 'active_sdom_elem');
    const list = fake.fieldAt('csched_private', credit.data, 'active_sdom');
    const units = (sdom: bigint) => fake.fieldAt('csched_dom', sdom, 'active_unit');
    const sdoms = [credit.sdom(fake.dom0), credit.sdom(fake.hvm)];
    const nodes = [
      credit.runq(1),
      ...[fake.hvm, fake.dom0, fake.idle[0]!].map((vcpu) => credit.element(vcpu)),
      ...[fake.hvm, fake.dom0].map((vcpu) => credit.active(vcpu)),
      list,
      ...sdoms.flatMap((sdom) => [units(sdom), sdomElement(sdom)]),
    ];
    const value = fc.oneof(fc.constantFrom(0n, ...nodes), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    fc.assert(
      fc.property(fc.constantFrom(...nodes), fc.constantFrom(0n, 8n), value, (node, side, to) => {
        credit.run([fake.dom0, fake.idle[1]!]);
        credit.activate([fake.dom0, fake.hvm]);
        fake.link(credit.runq(1), [credit.element(fake.hvm)]);
        fake.put(node + side, 8, to);
        const { after, plan } = planWith(fake, scheduling, placeCpus);
        expect(plan.problems).toEqual([]);
        expect(queue(after, 0)).toEqual(idleOnly(0));
        expect([[], [credit.element(fake.hvm)]]).toContainEqual(queue(after, 1).nodes);
        for (const vcpu of [fake.dom0, fake.idle[1]!])
          expect(closedList(after.memory, credit.element(vcpu))).toEqual({ nodes: [], broken: undefined });
        expect(closedList(after.memory, list).broken).toBeUndefined();
        let weight = 0;
        for (const sdom of sdoms) {
          const members = closedList(after.memory, units(sdom));
          expect(members.broken).toBeUndefined();
          expect(at(after, 'csched_dom', sdom).num('active_unit_count')).toBe(members.nodes.length);
          const isListed = closedList(after.memory, list).nodes.includes(sdomElement(sdom));
          expect(isListed).toBe(members.nodes.length > 0);
          weight += 256 * members.nodes.length;
        }
        expect(at(after, 'csched_private', credit.data).num('weight')).toBe(weight);
      }),
      { numRuns: 150 },
    );
  });
});
