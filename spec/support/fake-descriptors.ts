/** Healthy descriptor tables for a synthetic Xen: entry code for each vector, and for each CPU its three tables. */
import { PAGE_SIZE } from '../../src/x86/address.js';
import type { FakeXen } from './fake-xen.js';

const GATE = 16;
/** Vectors with a stack of their own: #DF, NMI, #MC, #DB. */
const STACKS = new Map([
  [8, 4],
  [2, 2],
  [18, 1],
  [1, 3],
]);
const UNUSED = 0x8600_1111_1111_1111n;

export interface FakeTables {
  readonly idt: bigint;
  readonly gdt: bigint;
  readonly tss: bigint;
}

/** Entry code of a vector: ENDBR64, an empty error code, the vector. */
export const entryOf = (fake: FakeXen, vector: number): bigint => fake.symbol('autogen_stubs') + BigInt(32 * vector);

export function writeDescriptorTables(fake: FakeXen): FakeTables[] {
  for (let vector = 0; vector < 256; vector++) {
    fake.putBytes(entryOf(fake, vector), [0xf3, 0x0f, 0x1e, 0xfa, 0x6a, 0, 0xc6, 0x44, 0x24, 4, vector]);
  }
  return Array.from({ length: fake.cpuCount }, (_, cpu) => writeTables(fake, cpu));
}

function writeTables(fake: FakeXen, cpu: number): FakeTables {
  const idt = cpu === 0 ? fake.symbol('idt_table') : fake.alloc(PAGE_SIZE, PAGE_SIZE);
  const gdt = cpu === 0 ? fake.symbol('boot_gdt') : fake.alloc(PAGE_SIZE, PAGE_SIZE);
  fake.put(fake.symbol('idt_tables') + BigInt(8 * cpu), 8, idt);
  fake.put(fake.perCpu('gdt', cpu), 8, gdt);
  const { memory } = fake.xen();
  fake.put(fake.perCpu('gdt_l1e', cpu), 8, BigInt(memory.physicalAddress(gdt)) | 0x8000_0000_0000_0063n);
  const tss = fake.fieldAt('tss_page', fake.perCpu('tss_page', cpu), 'tss');
  for (let vector = 0; vector < 256; vector++) {
    const handler = entryOf(fake, vector);
    const open = [3, 4].includes(vector) ? 0xeen : 0x8en;
    const low = (handler & 0xffffn) | (0xe008n << 16n) | (open << 40n) | (((handler >> 16n) & 0xffffn) << 48n);
    fake.put(idt + BigInt(GATE * vector), 8, low);
    fake.put(idt + BigInt(GATE * vector + 8), 8, handler >> 32n);
  }
  setStacks(fake, idt, cpu !== 1);
  const segments = [
    0x00af9b000000ffffn,
    0x00cf93000000ffffn,
    0n,
    0x00cffb000000ffffn,
    0x00cff3000000ffffn,
    0x00affb000000ffffn,
  ];
  for (const [n, segment] of segments.entries()) fake.put(gdt + BigInt(8 * (n + 1)), 8, segment);
  fake.put(gdt + 0x40n, 8, 0x67n | ((tss & 0xff_ffffn) << 16n) | (0x8bn << 40n) | (((tss >> 24n) & 0xffn) << 56n));
  fake.put(gdt + 0x48n, 8, tss >> 32n);
  fake.put(gdt + 0x60n, 8, 0x9100_0000_0000n | BigInt(cpu));
  const base = fake.frame(cpu) & ~0x7fffn;
  fake.set('tss64', tss, 'rsp0', fake.fieldAt('cpu_user_regs', fake.frame(cpu), 'es'));
  for (const name of ['rsp1', 'rsp2', 'ist[4]', 'ist[5]', 'ist[6]']) fake.set('tss64', tss, name, UNUSED);
  for (let n = 1; n <= 4; n++) {
    fake.set('tss64', tss, `ist[${n - 1}]`, base + BigInt((n + 1) * PAGE_SIZE) - (n === 4 ? 32n : 0n));
  }
  fake.set('tss64', tss, 'bitmap', 0x8000);
  return { idt, gdt, tss };
}

/** Gives the four vectors their separate stacks, or takes them away. */
export function setStacks(fake: FakeXen, idt: bigint, enabled: boolean): void {
  for (const [vector, stack] of STACKS) fake.put(idt + BigInt(GATE * vector + 4), 1, enabled ? stack : 0);
}
