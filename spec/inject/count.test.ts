/** The count of instructions in Xen, on a machine that executes and can be watched. */
import { beforeEach, describe, expect, it } from 'vitest';
import { Control } from '../../src/inject/control.js';
import {
  type Count,
  countInStay,
  countInXen,
  countWhileBusy,
  lastFirstVisit,
  noEffort,
} from '../../src/inject/count.js';
import type { Site } from '../../src/inject/model.js';
import { siteOf } from '../../src/inject/site.js';
import type { View } from '../../src/x86/view.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeMachine } from './fake-machine.js';

const CPU = 0;
/** 0: inc rax; 3: cmp rax, rcx; 6: jne 0; 8: inc rbx; 11: jmp 0, and rax goes on: the loop has an end once. */
const LOOP = [0x48, 0xff, 0xc0, 0x48, 0x39, 0xc8, 0x75, 0xf8, 0x48, 0xff, 0xc3, 0xeb, 0xf3];
const IRETQ = [0x48, 0xcf];
const CPUID = [0x0f, 0xa2];
const PAUSE_WHILE_ZERO = [0xf3, 0x90, 0x48, 0x83, 0x3f, 0x00, 0x74, 0xf8]; // pause; cmp qword [rdi], 0; je 0

let fake: FakeMachine;
let start: bigint;

beforeEach(() => {
  fake = new FakeMachine();
  start = fake.box.symbol('do_sched_op');
});

/** Puts code at a function of Xen and the CPU before it. */
async function at(code: readonly number[], set: Record<string, bigint> = {}): Promise<Site> {
  fake.box.putBytes(start, code);
  fake.box.enterXen(CPU, start);
  Object.assign(fake.box.registers(CPU), { cr3: fake.root }, set);
  const target = {
    machine: fake.machine,
    facts: readEntryFacts(fake.box.xen()),
    at: (view: View) => fake.box.xen(view),
  };
  const control = new Control(fake.machine, { signal: new AbortController().signal });
  return siteOf(target, control, CPU);
}

const soon = (): number => performance.now() + 2000;
const count = (site: Site, instructions: number, more: Partial<Count> = {}, effort = noEffort()) =>
  countInXen(site, { instructions, deadline: soon(), ...more }, effort);

describe('counting in Xen', () => {
  it('executes exactly so many instructions, wherever in a loop that ends', async () => {
    for (const instructions of [1, 2, 3, 4, 30, 31, 32, 100, 151, 152, 153, 154, 400]) {
      fake = new FakeMachine();
      const reached = await count(await at(LOOP, { rax: 0n, rcx: 50n }), instructions);
      expect(reached).toMatchObject({ kind: 'reached', steps: instructions, exact: true });
      expect(fake.executed[CPU]).toHaveLength(instructions);
    }
  });

  it('needs few stops for many instructions', async () => {
    const effort = noEffort();
    await count(await at(LOOP, { rax: 0n, rcx: 500n }), 1501, {}, effort);
    expect(fake.executed[CPU]).toHaveLength(1501);
    expect(effort.hops + effort.steps).toBeLessThan(6);
  });

  it('hits the place where it stands when the count is zero: the first instruction', async () => {
    const reached = await count(await at(LOOP), 0);
    expect(reached).toMatchObject({ kind: 'reached', steps: 0, site: { state: { registers: { rip: start } } } });
    expect(fake.executed[CPU]).toEqual([]);
  });

  it('steps what it cannot foretell', async () => {
    const effort = noEffort();
    await count(await at([0x90, ...CPUID, 0x90, ...CPUID, ...LOOP], { rcx: 50n }), 10, {}, effort);
    expect(fake.executed[CPU]).toHaveLength(10);
    expect(effort.steps).toBe(2);
  });

  it('counts what an interrupt in the middle executes', async () => {
    const site = await at(LOOP, { rax: 0n, rcx: 500n });
    fake.setHandler(CPU, 0xfa, [0x90, 0x90, 0x48, 0x83, 0xc4, 0x08, ...IRETQ]); // nop; nop; add rsp, 8; iretq
    fake.beforeInstruction = (cpu) => {
      if (fake.executed[cpu]!.length !== 100) return;
      fake.beforeInstruction = () => {};
      fake.interrupt(cpu, 0xfa);
    };
    const effort = noEffort();
    const reached = await count(site, 300, {}, effort);
    expect(reached).toMatchObject({ kind: 'reached', exact: true });
    expect(fake.executed[CPU]).toHaveLength(300);
    expect(fake.executed[CPU]!.slice(99, 105)).toContain(fake.box.symbol('common_interrupt'));
    expect(effort.surprises).toBe(0);
  });

  it('goes on at the next entry when the CPU leaves Xen, and counts nothing in the guest', async () => {
    const site = await at([0x90, 0x90, ...IRETQ]);
    const guest = [0x40_0000n, 0xe033n, 0x202n, 0x50_0000n, 0xe02bn];
    for (const [n, word] of guest.entries()) fake.box.put(site.state.registers.rsp + BigInt(8 * n), 8, word);
    const entry = fake.box.symbol('lstar_enter');
    fake.box.putBytes(entry, LOOP);
    let calls = 0;
    fake.beforeInstruction = (cpu) => {
      if (fake.box.registers(cpu).cs !== 0xe033 || ++calls < 2) return;
      fake.box.enterXen(cpu, entry);
    };
    const reached = await count(site, 7);
    expect(reached).toMatchObject({ kind: 'reached', steps: 7, exact: true });
    expect(fake.executed[CPU]).toHaveLength(7);
    expect(fake.executed[CPU]!.filter((rip) => rip >= entry && rip < entry + 64n)).toHaveLength(4);
  });

  it('lets the others run when the CPU waits for one of them', async () => {
    const lock = fake.box.alloc(8);
    const site = await at([...PAUSE_WHILE_ZERO, ...LOOP], { rdi: lock, rcx: 500n });
    let runs = 0;
    fake.elsewhere = () => {
      if (++runs === 3) fake.box.put(lock, 8, 1);
    };
    const effort = noEffort();
    const reached = await count(site, 200, {}, effort);
    expect(reached.kind).toBe('reached');
    expect(effort.spins).toBe(3);
    expect(fake.executed[CPU]).toHaveLength(200);
  });

  it('waits for a halted CPU to be woken', async () => {
    const site = await at([0x90, 0xf4, ...LOOP], { rcx: 500n });
    fake.beforeInstruction = (cpu) => {
      if (!fake.halted.has(cpu)) return;
      fake.halted.delete(cpu);
      fake.interrupt(cpu, 0xfa);
    };
    fake.setHandler(CPU, 0xfa, [0x90, 0x48, 0x83, 0xc4, 0x08, ...IRETQ]);
    expect(await count(site, 20)).toMatchObject({ kind: 'reached', exact: true });
    expect(fake.executed[CPU]).toHaveLength(20);
  });

  it('leaves a CPU that sleeps on, and tells how far it came', async () => {
    const site = await at([0x90, 0xf4, ...LOOP], { rcx: 500n });
    const begin = performance.now();
    const result = await countWhileBusy(site, { instructions: 100, deadline: soon(), waitUntil: begin + 30 });
    expect(result).toEqual({ kind: 'left', done: 2 });
    expect(performance.now() - begin).toBeGreaterThan(30);
  });

  it('does not leave a CPU that is busy', async () => {
    const reached = countWhileBusy(await at(LOOP, { rcx: 500n }), {
      instructions: 400,
      deadline: soon(),
      waitUntil: 0,
    });
    expect(await reached).toMatchObject({ kind: 'reached', steps: 400 });
  });

  it('says so when its time is over', async () => {
    const site = await at(PAUSE_WHILE_ZERO, { rdi: fake.box.alloc(8) });
    const result = await countInXen(site, { instructions: 100_000, deadline: performance.now() + 50 });
    expect(result).toMatchObject({ kind: 'not-reached', why: expect.stringContaining('its time was over') as string });
  });

  it('says so when the box fails by itself meanwhile', async () => {
    const site = await at([0xe9, 0, 0, 0, 0]);
    const panic = fake.box.symbol('panic');
    const distance = Number(panic - (start + 5n));
    fake.box.putBytes(start + 1n, new Uint8Array(Int32Array.of(distance).buffer));
    fake.box.putBytes(panic, LOOP);
    fake.breakpoints.add(panic);
    const result = await count(site, 50);
    expect(result).toMatchObject({ kind: 'not-reached', why: expect.stringContaining('panic') as string });
  });

  it('removes its breakpoints and no others', async () => {
    const entry = fake.box.symbol('lstar_enter');
    fake.breakpoints.add(entry);
    await count(await at(LOOP, { rcx: 50n }), 100);
    expect([...fake.breakpoints]).toEqual([entry]);
  });

  it('tells that a number may be wrong when the CPU was not where it should be', async () => {
    const site = await at(LOOP, { rax: 0n, rcx: 500n });
    fake.beforeInstruction = (cpu) => {
      if (fake.executed[cpu]!.length === 50) fake.box.registers(cpu).rbx = 7n;
    };
    expect(await count(site, 1501)).toMatchObject({ kind: 'reached', exact: false });
  });

  it('ends with the stay in Xen where that is asked for', async () => {
    const site = await at([0x90, 0x90, ...IRETQ]);
    const guest = [0x40_0000n, 0xe033n, 0x202n, 0x50_0000n, 0xe02bn];
    for (const [n, word] of guest.entries()) fake.box.put(site.state.registers.rsp + BigInt(8 * n), 8, word);
    expect(await countInStay(site, { instructions: 10, deadline: soon() })).toEqual({ kind: 'left', done: 3 });
  });

  it('counts only what it is asked to count', async () => {
    const site = await at(LOOP, { rcx: 500n });
    const reached = await count(site, 10, { counts: (rip) => rip === start });
    expect(reached).toMatchObject({ kind: 'reached', steps: 10, site: { state: { registers: { rip: start } } } });
    expect(fake.executed[CPU]!.filter((rip) => rip === start)).toHaveLength(10);
  });

  it('ends at once when it is aborted', async () => {
    const site = await at(LOOP);
    const control = new Control(fake.machine, { signal: AbortSignal.abort(new Error('enough')) });
    await expect(count({ ...site, control }, 5)).rejects.toThrow('enough');
  });

  it('counts on a stack of its own too: a CPU in an NMI', async () => {
    const site = await at(LOOP, { rcx: 500n, rsp: fake.box.frame(CPU) - 0x7000n });
    expect(site.state.where).toBe('xen');
    expect(await count(site, 40)).toMatchObject({ kind: 'reached', exact: true });
    expect(fake.executed[CPU]).toHaveLength(40);
  });
});

describe('lastFirstVisit', () => {
  it('is the farthest place that was not passed before', () => {
    expect(lastFirstVisit([1n, 2n, 3n], 2)).toBe(2);
    expect(lastFirstVisit([1n, 2n, 3n, 1n, 2n], 4)).toBe(2);
    expect(lastFirstVisit([1n, 2n, 1n, 2n, 5n, 1n], 4)).toBe(4);
    expect(lastFirstVisit([1n, 1n, 1n], 2)).toBe(0);
  });
});
