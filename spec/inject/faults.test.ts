/** What each fault does to a machine, and that it does what was chosen. */
import { beforeEach, describe, expect, it } from 'vitest';
import { Random } from '../../src/common/random.js';
import { Control } from '../../src/inject/control.js';
import { FAULTS, faultSchema, inject, planInjection, triggerSchema } from '../../src/inject/index.js';
import type { Choice, InjectionTarget } from '../../src/inject/model.js';
import { faultNamed } from '../../src/inject/plan.js';
import { byteAt, REGIONS, spansOf, without } from '../../src/inject/regions.js';
import { siteOf } from '../../src/inject/site.js';
import { codeOf, SUBSYSTEMS } from '../../src/inject/subsystems.js';
import { knownProfiles, loadProfile } from '../../src/layout/profile.js';
import type { View } from '../../src/x86/view.js';
import { listDomains } from '../../src/xen/domains.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { pageInfo } from '../../src/xen/frames.js';
import { heapLocks, isHeld, lockName, staticLocks } from '../../src/xen/locks.js';
import { FakeMachine } from './fake-machine.js';

const CPU = 0;
let fake: FakeMachine;
let target: InjectionTarget;

beforeEach(() => {
  fake = new FakeMachine();
  target = { machine: fake.machine, facts: readEntryFacts(fake.box.xen()), at: (view: View) => fake.box.xen(view) };
  fake.box.enterXen(CPU, 'do_sched_op');
  fake.box.registers(CPU).cr3 = fake.root;
});

const control = (held?: (held: boolean) => void) =>
  new Control(fake.machine, { signal: new AbortController().signal, ...(held === undefined ? {} : { held }) });

/** Marks a frame as allocated from Xen's heap, as its allocator does. */
function markHeapPage(frame: number): void {
  fake.box.set(
    'page_info',
    pageInfo(fake.box.xen(), frame).address,
    'count_info',
    fake.box.profile.constant('PGC_xen_heap'),
  );
}

/** Gives the page at an address of the direct map to a domain, as Xen's allocator does. */
function ownPage(domain: bigint, page: bigint): void {
  const directMap = BigInt(fake.box.profile.constant('DIRECTMAP_VIRT_START'));
  const pageNumber = (address: bigint): number => Number((address - directMap) >> 12n);
  const { address } = pageInfo(fake.box.xen(), pageNumber(page));
  fake.box.set('page_info', address, 'v.inuse._domain', pageNumber(domain));
}

async function apply(name: string, choice: Choice) {
  return faultNamed(name).apply(await siteOf(target, control(), CPU), choice);
}

describe('faults', () => {
  it('failstop sets the program counter to 0', async () => {
    await apply('failstop', {});
    expect(fake.box.registers(CPU).rip).toBe(0n);
  });

  it('register flips the chosen bit of the chosen register and no other', async () => {
    for (const [register, bit] of [
      ['rax', 63],
      ['rsp', 3],
      ['rip', 0],
    ] as const) {
      const before = { ...fake.box.registers(CPU) };
      expect(await apply('register', { register, bit })).toMatchObject({
        what: expect.stringContaining(`bit ${bit} of ${register} flipped: 0x`) as string,
      });
      expect(fake.box.registers(CPU)).toEqual({ ...before, [register]: before[register] ^ (1n << BigInt(bit)) });
    }
    const { rflags } = fake.box.registers(CPU);
    await apply('register', { register: 'rflags', bit: 10 });
    expect(fake.box.registers(CPU).rflags).toBe(rflags ^ 0x400);
  });

  it('code flips one bit near the program counter, and can put it back', async () => {
    const { rip } = fake.box.registers(CPU);
    const byte = (): number => fake.box.xen().memory.u8(rip + 7n);
    const applied = await apply('code', { byte: 7, bit: 3, repair: true });
    expect(byte()).toBe(8);
    if (applied.kind !== 'applied') throw new Error(applied.why);
    await applied.repair!();
    expect(byte()).toBe(0);
    expect(await apply('code', { byte: 7, bit: 3, repair: false })).not.toHaveProperty('repair');
  });

  it('memory flips one bit of the chosen region', async () => {
    for (const region of REGIONS) {
      if (region === 'xenheap') continue;
      const applied = await apply('memory', { region, where: 0.5, bit: 2 });
      expect(applied).toMatchObject({ kind: 'applied', what: expect.stringContaining(`in ${region}`) as string });
    }
    // The synthetic machine has no page marked as Xen's heap, until now.
    const none = await apply('memory', { region: 'xenheap', where: 0.5, bit: 2 });
    expect(none).toMatchObject({ kind: 'not-reached' });
    markHeapPage(0x1000);
    expect(await apply('memory', { region: 'xenheap', where: 0.5, bit: 2 })).toMatchObject({
      what: expect.stringContaining('0xffff830001000800') as string,
    });
  });

  it('memory flips one bit of what the CPU reads next, and tells where that was', async () => {
    const { rip } = fake.box.registers(CPU);
    const word = fake.box.alloc(8);
    fake.box.put(word, 8, 0x1122n);
    fake.box.registers(CPU).rbx = word;
    fake.box.putBytes(rip, [0x89, 0x4b, 0x10, 0x48, 0x8b, 0x03]); // mov [rbx+0x10], ecx; mov rax, [rbx]
    const applied = await apply('memory', { region: 'next-read', where: 0.2, bit: 1 });
    expect(applied).toMatchObject({ what: expect.stringContaining('before "mov rax,[rbx]" read it') as string });
    expect(fake.box.xen().memory.u64(word)).toBe(0x1322n);
    if (applied.kind !== 'applied') throw new Error(applied.why);
    expect(applied.site!.state.registers.rip).toBe(rip + 3n);
  });

  it("memory leaves alone what the CPU reads of a guest's", async () => {
    const { rip } = fake.box.registers(CPU);
    const [guests, own] = [fake.box.alloc(4096, 4096), fake.box.alloc(8)];
    ownPage(fake.box.dom0.domain, guests);
    Object.assign(fake.box.registers(CPU), { rbx: guests, rsi: own });
    fake.box.putBytes(rip, [0x8b, 0x03, 0x8b, 0x06]); // mov eax, [rbx]; mov eax, [rsi]
    expect(await apply('memory', { region: 'next-read', where: 0, bit: 0 })).toMatchObject({
      what: expect.stringContaining('"mov eax,[rsi]"') as string,
    });
    expect([fake.box.xen().memory.u32(guests), fake.box.xen().memory.u32(own)]).toEqual([0, 1]);
  });

  it('hang sends the CPU to a jump to itself, with interrupts as chosen', async () => {
    const spin = fake.box.symbol('machine_halt') + 0x20n;
    fake.box.putBytes(spin, [0xeb, 0xfe]);
    await apply('hang', { interrupts: 'on' });
    expect(fake.box.registers(CPU)).toMatchObject({ rip: spin, rflags: 0x202 });
    await apply('hang', { interrupts: 'off' });
    expect(fake.box.registers(CPU)).toMatchObject({ rip: spin, rflags: 2 });
  });

  it('lock-leak takes a free lock, for nobody or for another CPU', async () => {
    const heldNow = () =>
      [...staticLocks(fake.box.xen()), ...heapLocks(fake.box.xen(), listDomains(fake.box.xen()))].filter((lock) =>
        isHeld(fake.box.xen(), lock),
      );
    expect(heldNow()).toEqual([]);
    const applied = await apply('lock-leak', { pick: 0, lock: 'heap_lock', where: 'static', holder: 'other-cpu' });
    expect(applied).toMatchObject({ what: expect.stringMatching(/^lock heap_lock held by CPU 1/) as string });
    expect(heldNow().map(lockName)).toEqual(['heap_lock']);
    expect(fake.box.xen().memory.u16(heldNow()[0]!.address + 4n)).toBe(0x1001);
    expect(await apply('lock-leak', { pick: 0, lock: 'heap_lock', where: 'static', holder: 'nobody' })).toMatchObject({
      kind: 'not-reached',
    });
  });

  it('software-bug skips an instruction', async () => {
    const { rip } = fake.box.registers(CPU);
    fake.box.putBytes(rip, [0x48, 0x89, 0xd8]); // mov rax, rbx
    expect(await apply('software-bug', { bug: 'skipped-instruction' })).toMatchObject({
      what: 'instruction "mov rax,rbx" skipped',
    });
    expect(fake.box.registers(CPU).rip).toBe(rip + 3n);
  });

  it('software-bug has the next conditional branch go the wrong way, and tells where that was', async () => {
    const { rip } = fake.box.registers(CPU);
    fake.box.putBytes(rip, [0x90, 0x31, 0xc0, 0x74, 0x10]); // nop; xor eax, eax; je +0x10
    const applied = await apply('software-bug', { bug: 'wrong-branch' });
    expect(applied).toMatchObject({ what: expect.stringContaining('not taken wrongly') as string });
    expect(fake.box.registers(CPU).rip).toBe(rip + 5n);
    if (applied.kind !== 'applied') throw new Error(applied.why);
    expect(applied.site!.state.registers.rip).toBe(rip + 3n);
  });

  it('refuse choices that are not theirs', async () => {
    await expect(apply('register', { register: 'xmm0', bit: 1 })).rejects.toThrow();
    await expect(apply('code', { byte: 15, bit: 0, repair: true })).rejects.toThrow();
    expect(() => faultNamed('nothing')).toThrow(/no fault "nothing"/);
  });
});

describe('inject', () => {
  const options = (held?: (held: boolean) => void) => ({
    signal: new AbortController().signal,
    ...(held === undefined ? {} : { held }),
  });
  const trigger = triggerSchema.parse({ type: 'timer', delayMs: [0, 0], instructions: [3, 3] });

  it('leaves the machine frozen and tells the point, and when it held the machine', async () => {
    fake.box.putBytes(fake.box.symbol('do_sched_op'), [0x90, 0x90, 0x90, 0x90]);
    fake.state = 'running';
    const told: boolean[] = [];
    const planned = planInjection(new Random(1), faultSchema.parse({ type: 'failstop' }), trigger);
    const injection = await inject(
      target,
      planned,
      options((held) => told.push(held)),
    );
    expect(injection).toMatchObject({
      kind: 'injected',
      point: { cpu: CPU, at: 'do_sched_op+0x3', steps: 3 },
      applied: { what: 'program counter set to 0' },
    });
    expect(fake.state).toBe('frozen');
    expect(told).toEqual([true]);
  });

  it('says so when the point is not reached, and changes nothing', async () => {
    fake.box.run(CPU, fake.box.idle[CPU]!);
    const never = triggerSchema.parse({ type: 'timer', delayMs: [0, 0], limitMs: 30 });
    const planned = planInjection(new Random(1), faultSchema.parse({ type: 'failstop' }), never);
    const before = { ...fake.box.registers(CPU) };
    expect(await inject(target, planned, options())).toMatchObject({ kind: 'not-reached' });
    expect(fake.box.registers(CPU)).toEqual(before);
    expect(fake.state).toBe('frozen');
  });

  it('makes no fault where the caller objects to the moment', async () => {
    fake.box.putBytes(fake.box.symbol('do_sched_op'), [0x90, 0x90, 0x90, 0x90]);
    const planned = planInjection(new Random(1), faultSchema.parse({ type: 'failstop' }), trigger);
    const objection = (): string => 'a VM is gone';
    expect(await inject(target, planned, { ...options(), objection })).toEqual({
      kind: 'not-reached',
      why: 'a VM is gone',
    });
    expect(fake.box.registers(CPU).rip).not.toBe(0n);
  });

  it('hits the CPU that the number drawn in advance says', async () => {
    fake.box.enterXen(1, 'do_mmu_update');
    for (const victim of [0, 1, 2, 3]) {
      const planned = {
        ...planInjection(new Random(1), faultSchema.parse({ type: 'memory', region: 'stacks' }), trigger),
        triggerChoice: { delayMs: 0, instructions: 0, victim, retries: 1, limitMs: 1000 },
      };
      expect(await inject(target, planned, options())).toMatchObject({ point: { cpu: victim % 2 } });
    }
  });

  it('refuses a function that this Xen has not', async () => {
    const named = triggerSchema.parse({ type: 'function', function: 'no_such', delayMs: [0, 0] });
    const planned = planInjection(new Random(1), faultSchema.parse({ type: 'failstop' }), named);
    await expect(inject(target, planned, options())).rejects.toMatchObject({ code: 'NL_USAGE' });
  });
});

describe('regions', () => {
  it('are cut where something else lies in them', () => {
    const span = { address: 100n, size: 100 };
    expect(without(span, [{ address: 120n, size: 10 }])).toEqual([
      { address: 100n, size: 20 },
      { address: 130n, size: 70 },
    ]);
    expect(without(span, [{ address: 50n, size: 60 }])).toEqual([{ address: 110n, size: 90 }]);
    expect(without(span, [{ address: 0n, size: 1000 }])).toEqual([]);
    expect(without(span, [{ address: 200n, size: 10 }])).toEqual([span]);
  });

  it('are hit everywhere, from the first byte to the last', () => {
    const spans = [
      { address: 0n, size: 3 },
      { address: 10n, size: 1 },
    ];
    expect([0, 0.25, 0.5, 0.75, 0.999].map((where) => byteAt(spans, where)!.address)).toEqual([0n, 1n, 2n, 10n, 10n]);
    expect(byteAt([], 0.5)).toBeUndefined();
  });

  it('do not overlap', () => {
    const all = REGIONS.flatMap((region) => spansOf(fake.box.xen(), region)).sort((a, b) =>
      a.address < b.address ? -1 : 1,
    );
    for (const [n, span] of all.slice(1).entries()) {
      expect(span.address >= all[n]!.address + BigInt(all[n]!.size)).toBe(true);
    }
  });
});

describe('subsystems', () => {
  it('have functions in every Xen that has a profile, and share none', () => {
    for (const { buildId } of knownProfiles()) {
      const profile = loadProfile(buildId);
      const starts = new Map<bigint, string>();
      for (const subsystem of SUBSYSTEMS) {
        const code = codeOf(profile, subsystem);
        expect([subsystem, code.length > 8]).toEqual([subsystem, true]);
        for (const { start } of code) {
          expect(starts.get(start)).toBeUndefined();
          starts.set(start, subsystem);
        }
      }
    }
  });
});

it('every fault and trigger is documented', async () => {
  const { readFileSync } = await import('node:fs');
  const { TRIGGERS } = await import('../../src/inject/index.js');
  const text = readFileSync(new URL('../../docs/reference/faults.md', import.meta.url), 'utf8');
  for (const { name } of [...FAULTS, ...TRIGGERS]) expect(text).toContain(`### ${name}`);
});
