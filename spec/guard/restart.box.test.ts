/**
 * A CPU that was reset, or is in the state of one, on a real box: it gets its tables and its mode again, and all VMs live. The same
 * for one that lost only its page table, or what it knows itself by.
 */
import { describe, expect, it } from 'vitest';
import { Guard } from '../../src/guard/guard.js';
import { restartLost } from '../../src/guard/restart.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { PAGE_SIZE, physical } from '../../src/x86/address.js';
import { lostItsMode } from '../../src/x86/registers.js';
import type { CpuState } from '../../src/xen/cpus.js';
import { listDomains } from '../../src/xen/domains.js';
import { baseTables } from '../../src/xen/page-tables.js';
import { freezeInXen, inXen, lostVms, type Moment, runUntil, sampleOf, useFreshBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;

let box: Box;
let target: Target;
useFreshBox((...fresh) => {
  [box, target] = fresh;
});

/** Takes a CPU's mode away, in an order in which QEMU accepts it. */
async function loseMode(cpu: number): Promise<void> {
  for (const part of [
    { cr0: 0x11n },
    { efer: 0n },
    { cr4: 0n },
    { cr3: 0n },
    { cs: 0, ss: 0, ds: 0, es: 0 },
    { rip: 1n, rsp: 0n },
  ])
    await box.machine.writeRegisters(cpu, part);
}

describe('a CPU that lost its mode', () => {
  it('has its tables and control registers again', async () => {
    const [cpu] = await freezeInXen(box, target);
    const tables = await box.machine.hiddenRegisters(cpu!);
    const before = (await box.machine.capture()).registers(cpu!);
    await loseMode(cpu!);
    const lost = await box.machine.capture();
    expect(lostItsMode(lost.registers(cpu!))).toBe(true);

    const view = await restartLost(target, lost);
    const { cr4, efer, cs, gsBase, kernelGsBase, fsBase } = before;
    expect(view.registers(cpu!)).toMatchObject({ cr4, efer, cs, gsBase, kernelGsBase, fsBase });
    const { gdt, idt, tr } = await box.machine.hiddenRegisters(cpu!);
    expect({ gdt, idt, tr }).toEqual({ gdt: tables.gdt, idt: tables.idt, tr: tables.tr });
  });

  it('needs no page table for low memory, where the trampoline is', async () => {
    const [cpu] = await freezeInXen(box, target);
    const before = (await box.machine.capture()).registers(cpu!);
    const { xen } = target;
    box.machine.ram.write(xen.memory.physicalAddress(xen.symbol('idle_pg_table')), new Uint8Array(8));
    await loseMode(cpu!);

    const view = await restartLost(target, await box.machine.capture());
    const { cr4, efer, cs } = before;
    expect(view.registers(cpu!)).toMatchObject({ cr4, efer, cs });
  });

  it('that does not get through is without a mode still', async () => {
    const [cpu] = await freezeInXen(box, target);
    const trampoline = Number(target.xen.memory.u64(target.xen.symbol('trampoline_phys')));
    // HLT where its 16-bit code begins: nobody wakes it.
    box.machine.ram.write(physical(trampoline), new Uint8Array(PAGE_SIZE).fill(0xf4));
    await loseMode(cpu!);
    const view = await restartLost(target, await box.machine.capture());
    expect(lostItsMode(view.registers(cpu!))).toBe(true);
  });

  it('changes nothing in memory on its way', async () => {
    const [cpu] = await freezeInXen(box, target);
    const stack = target.xen.memory.u64(target.xen.symbol('stack_base') + BigInt(8 * cpu!));
    const words = (xen: Target['xen']): string => Buffer.from(xen.memory.bytes(stack, 0x8000)).toString('hex');
    const before = words(target.at(await box.machine.capture()));
    await loseMode(cpu!);
    const after = words(target.at(await restartLost(target, await box.machine.capture())));
    expect(after === before).toBe(true);
  });

  it('is recovered, and all VMs live', async () => {
    const guard = await Guard.attach(target);
    await guard.warm;
    const before = sampleOf(box);
    const [cpu] = await freezeInXen(box, target);
    await loseMode(cpu!);
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed' });
    while ((await guard.nextRecovery(1000)) !== undefined);
    expect(await lostVms(box, before)).toEqual([]);
  });
});

describe('a CPU that lost its page table', () => {
  /** What the CPU had as it shut down is what it is seen with. */
  async function recovered(lose: (cpu: number) => Promise<void>): Promise<void> {
    const guard = await Guard.attach(target);
    await guard.warm;
    const before = sampleOf(box);
    const [cpu] = await freezeInXen(box, target);
    await lose(cpu!);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'machine-stop', cpu } });
    expect(recovery!.failure.summary).toMatch(/^triple fault in Xen/);
    while ((await guard.nextRecovery(1000)) !== undefined);
    expect(await lostVms(box, before)).toEqual([]);
  }

  it('and nothing else is recovered, and all VMs live', () =>
    recovered((cpu) => box.machine.writeRegisters(cpu, { cr3: 0n })));

  it('and its stack, as in kexec_reloc, is recovered, and all VMs live', () =>
    recovered(async (cpu) => {
      const top = target.xen.memory.u64(target.xen.symbol('stack_base') + BigInt(8 * cpu)) + 0x8000n;
      const rip = target.xen.symbol('kexec_reloc');
      await box.machine.writeRegisters(cpu, { rip, rdi: top + 0xd0n, rsi: 0n });
    }));
});

describe("a guest's top-level page table that does not map Xen", () => {
  const SLOTS = { first: 257, bytes: 8 * 15 };
  const WRONG_BY = 4;
  /** A PV vCPU with a table that no CPU has loaded, so that the next one that does is lost. */
  const findTable = ({ view, xen }: Moment): number | undefined => {
    const loaded = new Set(Array.from({ length: view.cpuCount }, (_, cpu) => Number(view.registers(cpu).cr3 >> 12n)));
    return [...baseTables(listDomains(xen))].find((table) => !loaded.has(table));
  };

  it('is given what it has to map, and all VMs live', async () => {
    const guard = await Guard.attach(target);
    await guard.warm;
    const before = sampleOf(box);
    const table = await runUntil(box, target, findTable);
    const at = table * PAGE_SIZE + 8 * SLOTS.first;
    const slots = Uint8Array.from(box.machine.ram.read(at, SLOTS.bytes));
    // As a thread leaves it that had the table's address wrong by half an entry.
    box.machine.ram.write(at, new Uint8Array(SLOTS.bytes));
    box.machine.ram.write(at + WRONG_BY, slots.subarray(0, SLOTS.bytes - WRONG_BY));
    await box.machine.resume();
    const recovery = await guard.nextRecovery(DETECTION_MS);
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'machine-stop' } });
    expect(recovery!.plan.edits.filter(({ step }) => step === 'xen-slots')).not.toEqual([]);
    while ((await guard.nextRecovery(1000)) !== undefined);
    expect(await lostVms(box, before)).toEqual([]);
  });
});

describe('a CPU whose trap wrote over the top of its stack', () => {
  /** One with a PV guest's frame complete on its stack. */
  const findForPv = (moment: Moment): CpuState | undefined =>
    inXen(moment).find(
      ({ current, registers, stack }) => current.domain.kind === 'pv' && registers.rsp < stack.guestFrame - 8n,
    );

  it('is recovered, and all VMs live', async () => {
    const guard = await Guard.attach(target);
    await guard.warm;
    const before = sampleOf(box);
    const { cpu, stack } = await runUntil(box, target, findForPv);
    const set = (path: string, value: bigint): void => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(value);
      box.machine.ram.write(target.xen.memory.physicalAddress(stack.info.at(path)), bytes);
    };
    for (const path of ['processor_id', 'current_vcpu', 'per_cpu_offset', 'cr4']) set(path, 0n);
    set('guest_cpu_user_regs.ss', 0n);
    set('xen_cr3', 0x3dn);
    set('pv_cr3', 0xffff_fffen);
    await box.machine.writeRegisters(cpu, { rip: 0n });
    expect(await guard.nextRecovery(DETECTION_MS)).toMatchObject({ result: 'resumed', failure: { cpu } });
    while ((await guard.nextRecovery(1000)) !== undefined);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
