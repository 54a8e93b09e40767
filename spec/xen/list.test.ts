import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { closedList } from '../../src/xen/list.js';
import { FakeXen } from '../support/fake-xen.js';

function listOf(length: number): { fake: FakeXen; head: bigint; nodes: bigint[] } {
  const fake = new FakeXen();
  const head = fake.alloc(16);
  const nodes = Array.from({ length }, () => fake.alloc(16));
  fake.link(head, nodes);
  return { fake, head, nodes };
}

describe('closedList', () => {
  it('gives the nodes in order', () => {
    const { fake, head, nodes } = listOf(5);
    expect(closedList(fake.xen().memory, head)).toEqual({ nodes, broken: undefined });
    fake.link(head);
    expect(closedList(fake.xen().memory, head)).toEqual({ nodes: [], broken: undefined });
  });

  it('names what is wrong', () => {
    const { fake, head, nodes } = listOf(3);
    const broken = (at: bigint, value: bigint): string | undefined => {
      fake.link(head, nodes);
      fake.put(at, 8, value);
      return closedList(fake.xen().memory, head).broken;
    };
    expect(broken(nodes[1]!, 0n)).toBe('a link leads nowhere');
    expect(broken(nodes[2]!, nodes[0]!)).toBe('it runs in a circle');
    expect(broken(nodes[1]! + 8n, head)).toBe('a backward link differs from the forward one');
    expect(broken(head + 8n, nodes[1]!)).toBe('the head does not point at the last node');
  });

  it('reports every single changed link, and always ends', () => {
    const { fake, head, nodes } = listOf(6);
    const places = [head, ...nodes].flatMap((node) => [node, node + 8n]);
    const anywhere = fc.oneof(
      fc.constantFrom(0n, 1n, 0xffff_ffff_ffff_ffffn, 0x0010_0100_0010_0100n),
      fc.constantFrom(head, ...nodes),
      fc.constantFrom(...nodes).map((node) => node + 8n),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    );
    fc.assert(
      fc.property(fc.constantFrom(...places), anywhere, (place, value) => {
        fake.link(head, nodes);
        const { memory } = fake.xen();
        fc.pre(memory.u64(place) !== value);
        fake.put(place, 8, value);
        expect(closedList(memory, head).broken).toBeDefined();
      }),
    );
  });

  it('never throws or hangs, whatever several links have become', () => {
    const { fake, head, nodes } = listOf(6);
    const places = [head, ...nodes].flatMap((node) => [node, node + 8n]);
    const value = fc.oneof(fc.constantFrom(head, ...nodes), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...places), value), { minLength: 1, maxLength: 8 }), (changes) => {
        fake.link(head, nodes);
        for (const [place, to] of changes) fake.put(place, 8, to);
        const { memory } = fake.xen();
        const reading = closedList(memory, head);
        const inOrder = reading.nodes.every((node, n) => memory.u64(node + 8n) === (reading.nodes[n - 1] ?? head));
        expect(inOrder).toBe(true);
      }),
    );
  });
});
