import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { rcu } from '../../../src/recover/microreset/rcu.js';
import type { Xen } from '../../../src/xen/xen.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

const BATCH = 40n;
const LISTS = ['nxt', 'cur', 'done'] as const;
type List = (typeof LISTS)[number];

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  control({ cur: BATCH, completed: BATCH });
  for (const cpu of [0, 1]) {
    setQueue(cpu, { quiescbatch: BATCH });
    for (const list of LISTS) fill(cpu, list, []);
  }
  fake.enterXen(0, 'rcu_process_callbacks');
});

function control(fields: Readonly<Record<string, bigint | number>>): void {
  for (const [name, value] of Object.entries(fields)) fake.set('rcu_ctrlblk', fake.symbol('rcu_ctrlblk'), name, value);
}

const queueOf = (cpu: number): bigint => fake.perCpu('rcu_data', cpu);

function setQueue(cpu: number, fields: Readonly<Record<string, bigint | number>>): void {
  for (const [name, value] of Object.entries(fields)) fake.set('rcu_data', queueOf(cpu), name, value);
}

function awaits(cpus: number): void {
  fake.put(fake.fieldAt('rcu_ctrlblk', fake.symbol('rcu_ctrlblk'), 'cpumask'), 8, cpus);
}

function callback(): bigint {
  const head = fake.new('rcu_head');
  fake.set('rcu_head', head, 'func', fake.symbol('_rcu_node_free'));
  return head;
}

function fill(cpu: number, list: List, nodes: readonly bigint[]): void {
  const links = [fake.fieldAt('rcu_data', queueOf(cpu), `${list}list`), ...nodes];
  for (const [n, link] of links.entries()) fake.put(link, 8, nodes[n] ?? 0n);
  setQueue(cpu, { [`${list}tail`]: links.at(-1)! });
}

function listed(xen: Xen, cpu: number, list: List): bigint[] {
  const nodes: bigint[] = [];
  const queue = xen.object('rcu_data', queueOf(cpu));
  let link = queue.at(`${list}list`);
  for (let node = xen.memory.u64(link); node !== 0n; node = xen.memory.u64(link)) {
    nodes.push(node);
    link = node;
  }
  expect(queue.u64(`${list}tail`)).toBe(link);
  return nodes;
}

describe('lists of callbacks', () => {
  it('are left alone when they are in order', () => {
    const [a, b, c] = [callback(), callback(), callback()];
    fill(0, 'nxt', [a, b]);
    fill(0, 'cur', [c]);
    setQueue(0, { batch: BATCH, qlen: 3 });
    expect(planWith(fake, rcu)).toMatchObject({ findings: [], writes: [] });
  });

  it('get the tail that a dropped call_rcu did not move', () => {
    const [a, b] = [callback(), callback()];
    fill(0, 'nxt', [a]);
    fake.put(a, 8, b);
    setQueue(0, { qlen: 1 });
    const { after, findings } = planWith(fake, rcu);
    expect(listed(after, 0, 'nxt')).toEqual([a, b]);
    expect(after.object('rcu_data', queueOf(0)).u64('qlen')).toBe(2n);
    expect(findings).toEqual(['CPU 0: callbacks (nxt) linked anew']);
  });

  it('have every callback once when a move from one to the other was dropped', () => {
    const [a, b, c] = [callback(), callback(), callback()];
    fill(0, 'done', [a]);
    fill(0, 'cur', [b, c]);
    fake.put(a, 8, b);
    const { after } = planWith(fake, rcu);
    expect(listed(after, 0, 'done')).toEqual([a, b, c]);
    expect(listed(after, 0, 'cur')).toEqual([]);
  });

  it('end where the last callback was being called', () => {
    const gone = callback();
    fill(0, 'done', [gone]);
    setQueue(0, { donelist: 0, qlen: 1 });
    expect(listed(planWith(fake, rcu).after, 0, 'done')).toEqual([]);
  });

  it('lose what lies on a stack, and what is no callback', () => {
    const [a, b, wild] = [callback(), callback(), callback()];
    const onStack = fake.frame(1) - 0x100n;
    fake.set('rcu_head', onStack, 'func', fake.symbol('rcu_barrier_callback'));
    fake.set('rcu_head', wild, 'func', 0xdeadn);
    fill(1, 'nxt', [a, onStack, b, wild]);
    expect(listed(planWith(fake, rcu).after, 1, 'nxt')).toEqual([a, b]);
  });

  it('are closed and without repetition, wherever the links pointed', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 8, maxLength: 8 }), (links) => {
        const heads = Array.from({ length: 5 }, callback);
        const places = [...heads, ...LISTS.map((list) => fake.fieldAt('rcu_data', queueOf(0), `${list}list`))];
        for (const [n, at] of places.entries()) fake.put(at, 8, heads[links[n]!]!);
        const { after } = planWith(fake, rcu);
        const all = LISTS.flatMap((list) => listed(after, 0, list));
        expect(new Set(all).size).toBe(all.length);
      }),
      { numRuns: 30 },
    );
  });
});

describe('a batch of callbacks', () => {
  const over = (xen: Xen) => {
    const object = xen.object('rcu_ctrlblk', fake.symbol('rcu_ctrlblk'));
    return [object.i64('cur') - object.i64('completed'), object.num('next_pending'), object.u64('cpumask')];
  };

  it('goes on while every CPU that it waits for knows of it', () => {
    control({ completed: BATCH - 1n });
    awaits(3);
    setQueue(0, { quiescbatch: BATCH - 1n });
    setQueue(1, { qs_pending: 1 });
    expect(planWith(fake, rcu).writes).toEqual([]);
  });

  it.each([
    [
      'a CPU was dropped before it had reported',
      () => {
        control({ completed: BATCH - 1n });
        awaits(1);
      },
    ],
    ['the last report was not seen', () => control({ completed: BATCH - 1n })],
    ['the next one was not started', () => control({ next_pending: 1 })],
    ['its numbers were damaged', () => control({ completed: 7 })],
    [
      'the next one was not asked for',
      () => {
        fill(0, 'cur', [callback()]);
        setQueue(0, { batch: BATCH + 1n });
      },
    ],
  ])('is over when %s', (_, breakIt) => {
    breakIt();
    const { after, findings } = planWith(fake, rcu);
    expect(over(after)).toEqual([0n, 0, 0n]);
    expect(findings.at(-1)).toMatch(/^batch of callbacks: .*; declared to be over$/);
    const queue = after.object('rcu_data', queueOf(0));
    expect(queue.u64('curlist') === 0n || queue.i64('batch') <= BATCH).toBe(true);
    expect(planWith(fake, rcu).findings.length).toBeGreaterThan(0);
  });
});

describe('what else RCU keeps', () => {
  it('is no barrier, since every thread that waited in it is gone', () => {
    fake.put(fake.symbol('cpu_count'), 4, 2);
    fake.put(fake.symbol('pending_count'), 4, 3);
    setQueue(1, { barrier_active: 1 });
    const { after } = planWith(fake, rcu);
    expect([after.memory.u32(fake.symbol('cpu_count')), after.memory.u32(fake.symbol('pending_count'))]).toEqual([
      0, 0,
    ]);
    expect(after.object('rcu_data', queueOf(1)).bool('barrier_active')).toBe(false);
  });

  it('counts only those CPUs as idle that wait', () => {
    const mask = fake.fieldAt('rcu_ctrlblk', fake.symbol('rcu_ctrlblk'), 'idle_cpumask');
    fake.put(mask, 8, 3);
    expect(planWith(fake, rcu).after.memory.u64(mask)).toBe(2n);
  });

  it('changes nothing when no thread was dropped', () => {
    fake.run(0, fake.dom0);
    fake.put(fake.symbol('cpu_count'), 4, 2);
    expect(planWith(fake, rcu).writes).toEqual([]);
  });
});
