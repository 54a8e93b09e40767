import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { Overlay } from '../../src/recover/overlay.js';
import { PAGE_SIZE, physical } from '../../src/x86/address.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

describe('Overlay', () => {
  it('shows what was written, and leaves the view below as it was', () => {
    const overlay = new Overlay(fake);
    const before = Uint8Array.from(fake.page(20)!);
    overlay.write(physical(20 * PAGE_SIZE + 4094), Uint8Array.of(1, 2));
    expect([...overlay.page(20)!.subarray(4094)]).toEqual([1, 2]);
    expect(overlay.glance(20)).toBe(overlay.page(20));
    expect(fake.page(20)).toEqual(before);
    expect(overlay.page(21)).toBe(fake.page(21));
  });

  it('merges registers, and leaves those of other CPUs alone', () => {
    const overlay = new Overlay(fake);
    overlay.setRegisters(0, { rip: 1n });
    overlay.setRegisters(0, { rsp: 2n });
    expect(overlay.registers(0)).toEqual({ ...fake.registers(0), rip: 1n, rsp: 2n });
    expect(overlay.registers(1)).toBe(fake.registers(1));
    expect(fake.registers(0).rip).not.toBe(1n);
  });

  it('has no page where the view has none', () => {
    expect(new Overlay(fake).page(1_000_000)).toBeUndefined();
  });

  it('reads back any sequence of writes as memory would', () => {
    const write = fc.tuple(fc.integer({ min: 0, max: PAGE_SIZE - 8 }), fc.uint8Array({ minLength: 1, maxLength: 8 }));
    fc.assert(
      fc.property(fc.array(write, { maxLength: 30 }), (writes) => {
        const overlay = new Overlay(fake);
        const model = Uint8Array.from(fake.page(5000)!);
        for (const [at, bytes] of writes) {
          overlay.write(physical(5000 * PAGE_SIZE + at), bytes);
          model.set(bytes, at);
        }
        expect(Buffer.compare(overlay.page(5000)!, model)).toBe(0);
      }),
    );
  });
});
