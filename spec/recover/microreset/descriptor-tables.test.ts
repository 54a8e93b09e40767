import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { completeFrames } from '../../../src/recover/microreset/complete-frames.js';
import { descriptorTables } from '../../../src/recover/microreset/descriptor-tables.js';
import { placeCpus } from '../../../src/recover/microreset/place-cpus.js';
import { retryHypercalls } from '../../../src/recover/microreset/retry-hypercalls.js';
import { setStacks } from '../../support/fake-descriptors.js';
import { FakeXen } from '../../support/fake-xen.js';
import { planWith } from '../planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  fake.putBytes(fake.symbol('__x86_return_thunk') - 1n, [0xcc, 0xc3]);
});

function flip(address: bigint, bit: number): void {
  fake.put(address, 1, fake.xen().memory.u8(address) ^ (1 << bit));
}

describe('descriptor-tables', () => {
  it('finds nothing in healthy tables, with and without separate stacks', () => {
    fake.enterXen(0, 'vcpu_wake');
    expect(planWith(fake, descriptorTables).plan.edits).toEqual([]);
    setStacks(fake, fake.tables[1]!.idt, false);
    expect(planWith(fake, descriptorTables).plan.edits).toEqual([]);
  });

  it('puts back any bit of a gate, a segment or a stack of a task-state segment', () => {
    const { idt, gdt, tss } = fake.tables[1]!;
    const bytes = [...Array(4096).keys()].map((n) => idt + BigInt(n));
    const segments = [...Array(0x50).keys(), ...[...Array(0x60).keys()].map((n) => n + 0x60)].map(
      (n) => gdt + BigInt(n),
    );
    const stacks = [...Array(0x58).keys()]
      .map((n) => tss + BigInt(n + 4))
      .filter((at) => at < tss + 28n || at >= tss + 36n);
    const before = [...bytes, ...segments, ...stacks].map((at) => fake.xen().memory.u8(at));
    const places = [...bytes, ...segments, ...stacks];
    fc.assert(
      fc.property(fc.integer({ min: 0, max: places.length - 1 }), fc.integer({ min: 0, max: 7 }), (n, bit) => {
        const at = places[n]!;
        flip(at, bit);
        const { after } = planWith(fake, descriptorTables);
        flip(at, bit);
        expect(after.memory.u8(at)).toBe(before[n]);
      }),
      { numRuns: 60 },
    );
  });

  it('says which gate it was, and has an abandoned CPU forget its double fault', () => {
    fake.enterXen(1, 'vcpu_wake');
    flip(fake.tables[1]!.idt + 14n * 16n + 1n, 3);
    const { findings, calls } = planWith(fake, descriptorTables);
    expect(findings).toEqual(['CPU 1: gate 14 of its interrupt table was damaged']);
    expect(calls).toMatchObject([{ cpu: 1, function: '__x86_return_thunk', offset: -1n }]);
  });

  it('finds a table whose address lost a bit', () => {
    flip(fake.symbol('idt_tables') + 8n + 2n, 0);
    flip(fake.perCpu('gdt', 1) + 3n, 1);
    const { after, findings } = planWith(fake, descriptorTables);
    expect(after.memory.u64(fake.symbol('idt_tables') + 8n)).toBe(fake.tables[1]!.idt);
    expect(after.memory.u64(fake.perCpu('gdt', 1))).toBe(fake.tables[1]!.gdt);
    expect(findings).toHaveLength(2);
  });

  it('leaves the local descriptor table to its guest', () => {
    fake.put(fake.tables[0]!.gdt + 0x50n, 8, 0x8200_0000_0fffn);
    expect(planWith(fake, descriptorTables).plan.edits).toEqual([]);
  });
});

describe('a CPU with damaged tables', () => {
  it('leaves its guest with all its registers in the frame, since it may have shut down there', () => {
    Object.assign(fake.registers(0), { rax: 5n, r15: 15n });
    flip(fake.tables[0]!.gdt + 13n, 7);
    const { after, plan, calls } = planWith(fake, descriptorTables, completeFrames, placeCpus);
    const guest = after.object('cpu_user_regs', fake.frame(0));
    const { rip, rsp, cs } = fake.registers(0);
    expect([guest.u64('rip'), guest.u64('rsp'), guest.num('cs')]).toEqual([rip, rsp, cs]);
    expect([guest.u64('rax'), guest.u64('r15')]).toEqual([5n, 15n]);
    expect(plan.cpus.map(({ abandoned }) => abandoned)).toEqual([true, false]);
    expect(calls.map((call) => call.function)).toEqual(['__x86_return_thunk']);
  });

  it('leaves its idle loop', () => {
    fake.run(0, fake.idle[0]!);
    flip(fake.tables[0]!.tss + 6n, 2);
    expect(planWith(fake, descriptorTables, placeCpus).plan.cpus[0]).toMatchObject({ abandoned: true });
  });
});

describe("a guest's trap that became a double fault", () => {
  it('gives the guest its registers back and retries nothing', () => {
    const stack = fake.frame(0) & ~0x7fffn;
    const frame = stack + 0x5000n - BigInt(fake.profile.struct('cpu_user_regs').size);
    fake.setHypercall(0, 5);
    fake.enterXen(0, 'show_execution_state');
    fake.registers(0).rsp = frame - 0x100n;
    const registers = { rip: 0xffff_ffff_8100_1234n, cs: 0xe033, rax: 77n, r15: 15n, rsp: 0xffff_8880_0000_2000n };
    for (const [name, value] of Object.entries({ ...registers, entry_vector: 8 }))
      fake.set('cpu_user_regs', frame, name, value);
    const { after, findings } = planWith(fake, completeFrames, retryHypercalls);
    const guest = after.object('cpu_user_regs', fake.frame(0));
    expect([guest.u64('rip'), guest.u64('rax'), guest.u64('r15')]).toEqual([registers.rip, 77n, 15n]);
    expect(findings).toEqual(['CPU 0: d0v0 was in its guest and could not deliver a trap']);
  });
});
