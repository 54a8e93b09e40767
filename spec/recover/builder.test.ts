import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { PlanBuilder } from '../../src/recover/builder.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
let plan: PlanBuilder;
beforeEach(() => {
  fake = new FakeXen();
  plan = new PlanBuilder(fake.xen());
});

describe('PlanBuilder', () => {
  it('lets later reads see earlier edits, and the machine see none', () => {
    const at = fake.alloc(16);
    plan.begin('one');
    expect(plan.write(at, 4, 0x1234_5678, 'why')).toBe(true);
    expect(plan.xen.memory.u32(at)).toBe(0x1234_5678);
    expect(fake.xen().memory.u32(at)).toBe(0);
    expect(plan.edits).toEqual([
      {
        kind: 'memory',
        step: 'one',
        reason: 'why',
        address: at,
        before: new Uint8Array(4),
        after: Uint8Array.of(0x78, 0x56, 0x34, 0x12),
      },
    ]);
  });

  it('notes no edit that changes nothing', () => {
    const at = fake.alloc(16);
    expect(plan.write(at, 8, 0, 'as it is')).toBe(false);
    plan.write(at, 8, 7, 'once');
    expect(plan.write(at, 8, 7, 'twice')).toBe(false);
    expect(plan.edits).toHaveLength(1);
  });

  it('takes the low bits of negative numbers', () => {
    const at = fake.alloc(16);
    plan.write(at, 2, -1, '');
    plan.write(at + 8n, 8, -2n, '');
    expect([plan.xen.memory.u32(at), plan.xen.memory.u64(at + 8n)]).toEqual([0xffff, 0xffff_ffff_ffff_fffen]);
  });

  it('writes across pages as one edit', () => {
    const at = fake.alloc(8192, 4096) + 4093n;
    const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6);
    plan.writeBytes(at, bytes, 'across');
    expect(plan.xen.memory.bytes(at, 6)).toEqual(bytes);
    expect(plan.xen.memory.u64(at)).toBe(0x0605_0403_0201n);
    expect(plan.edits).toHaveLength(1);
  });

  it('keeps the neighbours of a bit field', () => {
    const lock = plan.xen.object('spinlock', fake.alloc(16));
    plan.set(lock, 'recurse_cpu', 0xabc, '');
    plan.set(lock, 'recurse_cnt', 0x5, '');
    plan.set(lock, 'recurse_cpu', 0x123, '');
    expect([lock.num('recurse_cpu'), lock.num('recurse_cnt')]).toEqual([0x123, 0x5]);
    plan.set(lock, 'recurse_cnt', 0, '');
    expect([lock.num('recurse_cpu'), lock.num('recurse_cnt'), lock.num('tickets')]).toEqual([0x123, 0, 0]);
  });

  it('writes a field in its own size', () => {
    const frame = plan.xen.object('cpu_user_regs', fake.frame(0));
    fake.setFrame(0, { cs: 0xe030, saved_upcall_mask: 1 });
    plan.set(frame, 'cs', 0xe033, '');
    expect(frame.num('saved_upcall_mask')).toBe(1);
    expect(plan.edits[0]).toMatchObject({ after: Uint8Array.of(0x33, 0xe0) });
  });

  it('files findings and problems under the step that had them', () => {
    const first = plan.begin('first');
    plan.found('a');
    const second = plan.begin('second');
    plan.found('b');
    plan.problem('c');
    expect([first, second]).toEqual([['a'], ['b']]);
    expect(plan.problems).toEqual([{ step: 'second', message: 'c' }]);
  });

  it('keeps registers and calls as data, and lets later steps see the registers', () => {
    plan.begin('s');
    plan.setRegisters(1, { rip: 5n }, 'r');
    plan.call(0, 'vcpu_wake', [1n], 'c');
    expect(plan.view.registers(1).rip).toBe(5n);
    expect(plan.edits).toEqual([
      { kind: 'registers', step: 's', reason: 'r', cpu: 1, set: { rip: 5n } },
      { kind: 'call', step: 's', reason: 'c', cpu: 0, function: 'vcpu_wake', arguments: [1n] },
    ]);
  });

  it('throws where Xen maps nothing, and notes no edit', () => {
    expect(() => plan.write(0x1000n, 8, 1, '')).toThrow(expect.objectContaining({ code: 'NL_UNMAPPED' }));
    expect(plan.edits).toEqual([]);
  });

  it('gives edits that turn the machine into what the overlay shows, in whatever order they were made', () => {
    const base = fake.alloc(8192, 4096);
    const write = fc.tuple(
      fc.integer({ min: 0, max: 8184 }),
      fc.constantFrom(1, 2, 4, 8),
      fc.bigInt(0n, 2n ** 64n - 1n),
    );
    fc.assert(
      fc.property(fc.array(write, { maxLength: 20 }), (writes) => {
        const builder = new PlanBuilder(fake.xen());
        for (const [at, size, value] of writes) builder.write(base + BigInt(at), size as 1 | 2 | 4 | 8, value, '');
        const machine = fake.xen().memory.bytes(base, 8192);
        for (const edit of builder.edits) {
          if (edit.kind !== 'memory') continue;
          const at = Number(edit.address - base);
          expect(Buffer.compare(machine.subarray(at, at + edit.before.length), edit.before)).toBe(0);
          machine.set(edit.after, at);
        }
        expect(Buffer.compare(builder.xen.memory.bytes(base, 8192), machine)).toBe(0);
      }),
    );
  });
});
