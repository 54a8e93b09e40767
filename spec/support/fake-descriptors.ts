/** Healthy descriptor tables for a synthetic Xen: entry code for each vector, and for each CPU its three tables. */
import { PAGE_SIZE } from '../../src/x86/address.js';
import type { FakeXen } from './fake-xen.js';

const GATE = 16;
const VECTORS = 256;
const ENTRY = 32;
/** Vectors with a stack of their own: #DF, NMI, #MC, #DB. */
const STACKS = new Map([
  [8, 4],
  [2, 2],
  [18, 1],
  [1, 3],
]);
const UNUSED = 0x8600_1111_1111_1111n;
const SEGMENTS = [
  0x00af9b000000ffffn,
  0x00cf93000000ffffn,
  0n,
  0x00cffb000000ffffn,
  0x00cff3000000ffffn,
  0x00affb000000ffffn,
];

/** Addresses of a CPU's tables. */
export interface FakeTables {
  readonly idt: bigint;
  readonly gdt: bigint;
  readonly tss: bigint;
}

/** Entry code of a vector: ENDBR64, an empty error code, the vector. It lies at the end of Xen's text, away from what others use. */
const entryOf = (fake: FakeXen, vector: number): bigint =>
  (fake.symbol('_etext') & -4096n) - BigInt(ENTRY * (VECTORS - vector));

export function writeDescriptorTables(fake: FakeXen): FakeTables[] {
  const code = Buffer.alloc(VECTORS * ENTRY);
  const gates = Buffer.alloc(PAGE_SIZE);
  for (let vector = 0; vector < VECTORS; vector++) {
    code.set([0xf3, 0x0f, 0x1e, 0xfa, 0x6a, 0, 0xc6, 0x44, 0x24, 4, vector], ENTRY * vector);
    const handler = entryOf(fake, vector);
    const type = vector === 3 || vector === 4 ? 0xeen : 0x8en;
    const low = (handler & 0xffffn) | (0xe008n << 16n) | (type << 40n) | (((handler >> 16n) & 0xffffn) << 48n);
    gates.writeBigUInt64LE(low, GATE * vector);
    gates.writeBigUInt64LE(handler >> 32n, GATE * vector + 8);
  }
  fake.putBytes(entryOf(fake, 0), code);
  return Array.from({ length: fake.cpuCount }, (_, cpu) => writeTables(fake, cpu, gates));
}

function writeTables(fake: FakeXen, cpu: number, gates: Buffer): FakeTables {
  const idt = cpu === 0 ? fake.symbol('idt_table') : fake.alloc(PAGE_SIZE, PAGE_SIZE);
  const gdt = cpu === 0 ? fake.symbol('boot_gdt') : fake.alloc(PAGE_SIZE, PAGE_SIZE);
  const tss = fake.fieldAt('tss_page', fake.perCpu('tss_page', cpu), 'tss');
  fake.put(fake.symbol('idt_tables') + BigInt(8 * cpu), 8, idt);
  fake.putBytes(idt, gates);
  setStacks(fake, idt, true);

  fake.put(fake.perCpu('gdt', cpu), 8, gdt);
  fake.put(fake.perCpu('gdt_l1e', cpu), 8, BigInt(fake.xen().memory.physicalAddress(gdt)) | 0x8000_0000_0000_0063n);
  for (const [n, segment] of SEGMENTS.entries()) fake.put(gdt + BigInt(8 * (n + 1)), 8, segment);
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
