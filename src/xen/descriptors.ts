/**
 * The tables by which a processor finds its handlers and stacks: interrupt table, segment table and task-state segment, one of
 * each for every CPU (Xen 4.17: `load_system_tables` in arch/x86/cpu/common.c, desc.c, traps.c, x86_64/entry.S). Xen writes them
 * while it boots and hardly ever after, so what they must be is known: the segment table and the task-state segment from the
 * layout of the CPU's stack and its per-CPU data, the interrupt table from the others' tables, which are copies of one.
 *
 * IDTR, GDTR and the task register are no memory, and no debugger of QEMU writes them: they are not looked at.
 */
import { PAGE_SIZE } from '../x86/address.js';
import type { CpuState } from './cpus.js';
import type { Xen } from './xen.js';

/** Bytes of a CPU's table that are not what they must be. */
export interface TableDefect {
  readonly cpu: number;
  /** What lies there: "gate 14 of its interrupt table". */
  readonly what: string;
  readonly address: bigint;
  readonly right: Uint8Array;
}

type TableOwner = Pick<CpuState, 'cpu' | 'stack' | 'loaded'>;

/** All defects of these CPUs' tables. All CPUs of the machine have to be given, since their interrupt tables are compared. */
export function tableDefects(xen: Xen, cpus: readonly TableOwner[]): TableDefect[] {
  if (!xen.memory.isMapped(xen.symbol('idt_tables')) || !xen.memory.isMapped(xen.symbol('boot_gdt'))) return [];
  return [
    ...interruptTables(xen, cpus),
    ...cpus.flatMap((owner) => segmentTables(xen, owner)),
    ...taskSegments(xen, cpus),
  ];
}

const GATE_BYTES = 16;
/** Where in a gate the number of a separate stack stands. */
const STACK_BYTE = 4;
/** Vectors that have a stack of their own, with its number in the task-state segment: #DF, NMI, #MC, #DB. */
const OWN_STACK: readonly (readonly [vector: number, stack: number])[] = [
  [8, 4],
  [2, 2],
  [18, 1],
  [1, 3],
];

function interruptTables(xen: Xen, cpus: readonly TableOwner[]): TableDefect[] {
  const defects: TableDefect[] = [];
  const tables: { readonly owner: TableOwner; readonly at: bigint; readonly gates: Buffer }[] = [];
  if (!xen.memory.isMapped(xen.symbol('idt_table'))) return defects;
  const sample = withoutStacks(xen, xen.symbol('idt_table'));
  for (const owner of cpus) {
    const pointer = xen.symbol('idt_tables') + BigInt(8 * owner.cpu);
    let gates = sample;
    const at = findTable(xen, pointer, (address) => {
      gates = withoutStacks(xen, address);
      return isAlike(gates, sample);
    });
    if (at === undefined) continue;
    if (at !== xen.memory.u64(pointer)) defects.push(pointerDefect(owner.cpu, 'its interrupt table', pointer, at));
    defects.push(...separateStacks(xen, owner, at));
    tables.push({ owner, at, gates });
  }
  if (tables.every(({ gates }) => gates.equals(tables[0]!.gates))) return defects;
  for (let vector = 0; vector < PAGE_SIZE / GATE_BYTES; vector++) {
    const from = vector * GATE_BYTES;
    const values = tables.map(({ gates }) => gates.subarray(from, from + GATE_BYTES));
    if (values.every((value) => value.equals(values[0]!))) continue;
    const gate = chosen(values, (value) => isGate(xen, vector, value));
    if (gate === undefined) continue;
    const hasOwnStack = OWN_STACK.some(([own]) => own === vector);
    for (const [n, { owner, at }] of tables.entries()) {
      if (values[n]!.equals(gate)) continue;
      const right = Uint8Array.from(gate);
      if (hasOwnStack) right[STACK_BYTE] = xen.memory.u8(at, from + STACK_BYTE);
      const what = `gate ${vector} of its interrupt table`;
      defects.push({ cpu: owner.cpu, what, address: at + BigInt(from), right });
    }
  }
  return defects;
}

/** A table without what may differ between CPUs. */
function withoutStacks(xen: Xen, at: bigint): Buffer {
  const gates = Buffer.from(xen.memory.bytes(at, PAGE_SIZE).buffer);
  for (const [vector] of OWN_STACK) gates[vector * GATE_BYTES + STACK_BYTE] = 0;
  return gates;
}

/** Two tables have most of their entries in common, whatever happened to one. */
function isAlike(page: Buffer, sample: Buffer): boolean {
  if (page.equals(sample)) return true;
  let same = 0;
  for (let at = 0; at < PAGE_SIZE; at += GATE_BYTES) {
    if (sample.subarray(at, at + GATE_BYTES).equals(page.subarray(at, at + GATE_BYTES))) same++;
  }
  return same > PAGE_SIZE / GATE_BYTES / 2;
}

/**
 * While an HVM guest's state is loaded on AMD none of the four has a stack of its own (hvm/svm/svm.c), otherwise all have.
 * Which of the two it is, most of them tell.
 */
function separateStacks(xen: Xen, { cpu, loaded }: TableOwner, at: bigint): TableDefect[] {
  const there = (vector: number): number => xen.memory.u8(at, vector * GATE_BYTES + STACK_BYTE);
  const on = OWN_STACK.filter(([vector, stack]) => there(vector) === stack).length;
  const off = OWN_STACK.filter(([vector]) => there(vector) === 0).length;
  const enabled = on > off || (on === off && loaded.domain.kind !== 'hvm');
  return OWN_STACK.map(([vector, stack]) => [vector, enabled ? stack : 0] as const)
    .filter(([vector, right]) => there(vector) !== right)
    .map(([vector, right]) => ({
      cpu,
      what: `the stack of gate ${vector} of its interrupt table`,
      address: at + BigInt(vector * GATE_BYTES + STACK_BYTE),
      right: Uint8Array.of(right),
    }));
}

/** The value that more tables have than any other; between as many, the only one that can be right. */
function chosen(values: readonly Buffer[], canBe: (gate: Buffer) => boolean): Buffer | undefined {
  const votes = new Map<string, number>();
  for (const value of values) votes.set(value.toString('hex'), (votes.get(value.toString('hex')) ?? 0) + 1);
  const most = Math.max(...votes.values());
  const elected = values.filter((value) => votes.get(value.toString('hex')) === most);
  if (elected.every((value) => value.equals(elected[0]!))) return elected[0];
  const possible = elected.filter(canBe);
  return possible.length > 0 && possible.every((value) => value.equals(possible[0]!)) ? possible[0] : undefined;
}

/** Vectors that any code may call: breakpoint, overflow, and the old system call. */
const OPEN_TO_ALL: ReadonlySet<number> = new Set([3, 4, 0x80, 0x82]);
const INTERRUPT_GATE = 0x8e;
const DPL_3 = 0x60;
const ENDBR64 = Buffer.from('f30f1efa', 'hex');
const PUSH_0 = Buffer.from('6a00', 'hex');
/** Bytes within which an entry stores its vector. */
const ENTRY_PROLOGUE = 16;

/** Whether a gate looks as Xen makes it and leads to the very beginning of the entry code that stores its vector. */
function isGate(xen: Xen, vector: number, gate: Buffer): boolean {
  const wanted = OPEN_TO_ALL.has(vector) ? INTERRUPT_GATE | DPL_3 : INTERRUPT_GATE;
  if (gate.readUInt16LE(2) !== xen.profile.constant('__HYPERVISOR_CS') || gate[STACK_BYTE] !== 0) return false;
  if (gate[5] !== wanted || gate.readUInt32LE(12) !== 0) return false;
  const [low, middle, high] = [gate.readUInt16LE(0), gate.readUInt16LE(6), gate.readUInt32LE(8)].map(BigInt);
  const address = (high! << 32n) | (middle! << 16n) | low!;
  if (!xen.profile.isText(address) || !xen.memory.isMapped(address)) return false;
  if (vector === 0x80) return xen.profile.hasSymbol('int80_direct_trap') && address === xen.symbol('int80_direct_trap');
  const before = Buffer.from(xen.memory.bytes(address - 4n, 4));
  if (before.equals(ENDBR64) || before.subarray(2).equals(PUSH_0)) return false;
  const code = Buffer.from(xen.memory.bytes(address, ENTRY_PROLOGUE));
  const stores = [Buffer.from([0xc6, 0x44, 0x24, 0x04, vector]), Buffer.from([0xc7, 0x44, 0x24, 0x04, vector])];
  return stores.some((store) => code.includes(store));
}

/**
 * The table's address: what the pointer says where a table is there, otherwise what it says with one bit turned. Tables
 * are pages of their own.
 */
function findTable(xen: Xen, pointer: bigint, isTable: (address: bigint) => boolean): bigint | undefined {
  const noted = xen.memory.u64(pointer);
  if (leadsToTable(noted)) return noted;
  for (let bit = 0n; bit < 64n; bit++) if (leadsToTable(noted ^ (1n << bit))) return noted ^ (1n << bit);
  return undefined;

  function leadsToTable(address: bigint): boolean {
    return address % BigInt(PAGE_SIZE) === 0n && xen.memory.isMapped(address) && isTable(address);
  }
}

const pointerDefect = (cpu: number, table: string, address: bigint, right: bigint): TableDefect => ({
  cpu,
  what: `the address of ${table}`,
  address,
  right: word(right),
});

/** Selectors 0xe000 to 0xe038 and the CPU's number in the limit of 0xe060 (desc.c); what is not named is empty. */
const SEGMENTS: readonly bigint[] = [
  0n,
  0x00af9b000000ffffn,
  0x00cf93000000ffffn,
  0n,
  0x00cffb000000ffffn,
  0x00cff3000000ffffn,
  0x00affb000000ffffn,
  0n,
];
const TASK_SEGMENT = 8;
const LOCAL_TABLE = 10;
const CPU_NUMBER = 12;
const CPU_NUMBER_SEGMENT = 0x0000_9100_0000_0000n;
/** Present, a busy 64-bit task-state segment: loading the task register marked it. */
const BUSY_TASK_SEGMENT = 0x8bn << 40n;
/** `__PAGE_HYPERVISOR_RW` (asm-x86/x86_64/page.h): present, writable, accessed, dirty, no code. */
const PAGE_FLAGS = 0x8000_0000_0000_0063n;

function segmentTables(xen: Xen, owner: TableOwner): TableDefect[] {
  const { cpu } = owner;
  const pointer = xen.perCpu('gdt', cpu);
  const at = xen.memory.isMapped(pointer) ? findTable(xen, pointer, (address) => hasSegments(xen, address)) : undefined;
  if (at === undefined) return [];
  const defects: TableDefect[] = [];
  if (at !== xen.memory.u64(pointer)) defects.push(pointerDefect(cpu, 'its segment table', pointer, at));
  const there = Buffer.from(xen.memory.bytes(at, PAGE_SIZE).buffer);
  const right = segmentTable(xen, cpu);
  // The local table is its guest's.
  there.copy(right, 8 * LOCAL_TABLE, 8 * LOCAL_TABLE, 8 * CPU_NUMBER);
  for (let n = 0; n < PAGE_SIZE && !there.equals(right); n += 8) {
    if (there.compare(right, n, n + 8, n, n + 8) === 0) continue;
    const value = right.subarray(n, n + 8);
    const what = `selector 0x${(0xe000 + n).toString(16)} of its segment table`;
    defects.push({ cpu, what, address: at + BigInt(n), right: Uint8Array.from(value) });
    value.copy(there, n);
  }
  const mapping = BigInt(xen.memory.physicalAddress(at)) | PAGE_FLAGS;
  const places = [
    [xen.perCpu('gdt_l1e', cpu), 'what maps its segment table'],
    [slotInGuestTable(xen, owner), `its part of the segment table of ${owner.loaded.name}`],
  ] as const;
  for (const [entry, what] of places) {
    if (entry === undefined || !xen.memory.isMapped(entry) || xen.memory.u64(entry) === mapping) continue;
    defects.push({ cpu, what, address: entry, right: word(mapping) });
  }
  return defects;
}

function segmentTable(xen: Xen, cpu: number): Buffer {
  const table = Buffer.alloc(PAGE_SIZE);
  for (const [n, segment] of SEGMENTS.entries()) table.writeBigUInt64LE(segment, 8 * n);
  const task = xen.perCpu('tss_page', cpu) + xen.offsetOf('tss_page', 'tss');
  const limit = BigInt(xen.sizeOf('tss64') - 1);
  const low = limit | ((task & 0xff_ffffn) << 16n) | BUSY_TASK_SEGMENT | (((task >> 24n) & 0xffn) << 56n);
  table.writeBigUInt64LE(low, 8 * TASK_SEGMENT);
  table.writeBigUInt64LE(task >> 32n, 8 * (TASK_SEGMENT + 1));
  table.writeBigUInt64LE(CPU_NUMBER_SEGMENT | BigInt(cpu), 8 * CPU_NUMBER);
  return table;
}

/** Whether a page has most of the segments that a segment table of Xen's has. */
function hasSegments(xen: Xen, address: bigint): boolean {
  const used = SEGMENTS.map((segment, n) => [segment, n] as const).filter(([segment]) => segment !== 0n);
  return used.filter(([segment, n]) => xen.memory.u64(address, 8 * n) === segment).length > used.length / 2;
}

/** Where a PV vCPU's segment table is while it is loaded (asm-x86/config.h: PERDOMAIN_VIRT_START, GDT_LDT_VCPU_VA_SHIFT). */
export const guestTables = (vcpuId: number): bigint => 0xffff_8200_0000_0000n + (BigInt(vcpuId) << 17n);

/** Pages of descriptor tables that each PV vCPU has; of its segment table, the one that is Xen's (asm-x86/config.h). */
const PAGES_PER_VCPU = 32;
const VCPUS_PER_TABLE = 16;
const PAGE_OF_XEN = 14;

/** A PV guest's segments come from a table of its own, in which one page is that of the CPU on which it is loaded. */
function slotInGuestTable(xen: Xen, { loaded }: TableOwner): bigint | undefined {
  if (loaded.domain.kind !== 'pv') return undefined;
  const tables = loaded.domain.object.u64('arch.pv.gdt_ldt_l1tab');
  const table = tables + BigInt(8 * Math.floor(loaded.id / VCPUS_PER_TABLE));
  if (!xen.memory.isMapped(table)) return undefined;
  const index = (loaded.id % VCPUS_PER_TABLE) * PAGES_PER_VCPU + PAGE_OF_XEN;
  return xen.memory.u64(table) + BigInt(8 * index);
}

/** What Xen writes where no stack may ever be taken from. */
const NO_STACK = 0x8600_1111_1111_1111n;
const NO_PERMISSION_MAP = 0x8000;
const SHADOW_STACK_BYTES = 0x400n;
const SEPARATE_STACKS = 7;

function taskSegments(xen: Xen, cpus: readonly TableOwner[]): TableDefect[] {
  const known = cpus.filter(({ cpu }) => xen.memory.isMapped(xen.perCpu('tss_page', cpu)));
  const shadowWords = known.flatMap(({ cpu }) => [...Array(SEPARATE_STACKS + 1).keys()].map((n) => shadow(cpu, n)));
  const hasShadowStacks = shadowWords.filter((word) => word !== 0n).length > shadowWords.length / 2;
  return known.flatMap((owner) => taskSegment(xen, owner, hasShadowStacks));

  function shadow(cpu: number, n: number): bigint {
    return xen.memory.u64(xen.perCpu('tss_page', cpu), 8 * n);
  }
}

function taskSegment(xen: Xen, { cpu, stack }: TableOwner, hasShadowStacks: boolean): TableDefect[] {
  const defects: TableDefect[] = [];
  const page = xen.object('tss_page', xen.perCpu('tss_page', cpu));
  const tss = xen.object('tss64', page.at('tss'));
  const bytesOfFrame = BigInt(xen.sizeOf('cpu_user_regs'));
  const usedOfFrame = xen.offsetOf('cpu_user_regs', 'es');
  const top = (number: number): bigint => stack.base + BigInt((number + 1) * PAGE_SIZE);

  check(tss.at('rsp0'), stack.guestFrame + usedOfFrame, 'its primary stack');
  for (const name of ['rsp1', 'rsp2'] as const) check(tss.at(name), NO_STACK, `${name}, which is not used`);
  for (let number = 1; number <= SEPARATE_STACKS; number++) {
    const vector = OWN_STACK.find(([, own]) => own === number)?.[0];
    // The handler of a double fault writes the part of the frame that the processor does not know.
    const right = vector === undefined ? NO_STACK : top(number) - (vector === 8 ? bytesOfFrame - usedOfFrame : 0n);
    check(tss.at('ist') + BigInt(8 * (number - 1)), right, `separate stack ${number}`);
  }
  if (xen.memory.u16(tss.at('bitmap')) !== NO_PERMISSION_MAP)
    defect(tss.at('bitmap'), Uint8Array.of(0, NO_PERMISSION_MAP >> 8), 'its port permissions');
  for (let number = 0; hasShadowStacks && number <= SEPARATE_STACKS; number++) {
    const used = OWN_STACK.some(([, own]) => own === number);
    const right = used ? stack.base + BigInt(number) * SHADOW_STACK_BYTES - 8n : NO_STACK;
    check(page.at('ist_ssp') + BigInt(8 * number), right, `shadow stack ${number}`);
  }
  return defects;

  function check(address: bigint, right: bigint, what: string): void {
    if (xen.memory.u64(address) !== right) defect(address, word(right), what);
  }

  function defect(address: bigint, right: Uint8Array, what: string): void {
    defects.push({ cpu, what: `${what} in its task-state segment`, address, right });
  }
}

function word(value: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, value));
  return Uint8Array.from(bytes);
}
