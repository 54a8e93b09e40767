/**
 * A CPU that lost its mode: it neither translates addresses nor executes 64-bit code, and has no descriptor tables. On hardware
 * that is a CPU whose triple fault reset it. In QEMU 7.2 (software emulation) it is also one whose page tables lead out of RAM,
 * as they do when Xen's entry code reads their address through a damaged stack pointer: the failing walk is answered like the end
 * of a guest's run, which loads the host's state from where none was ever saved. Selectors, CR0, CR3, CR4, EFER, GDTR and IDTR
 * are 0 then, and interrupts are held off whatever the flags say; all else is as it was.
 *
 * No debugger writes GDTR and IDTR, so the CPU loads them itself, alone, with all others standing still: first from 16-bit code, as
 * every CPU does when Xen boots it (the trampoline, Xen 4.17 arch/x86/boot/trampoline.S), then the final ones with two instructions
 * of `load_system_tables`. In between the stub sets the control registers. No code of Xen's is executed that changes
 * anything else, so the guest's floating-point registers are kept.
 *
 * The trampoline lies in low memory, which Xen's own page table maps for booting CPUs only. Damaged code that lost CPUs their modes has
 * been seen to write over that part of it, so nothing is looked up there: the 64-bit segment is loaded before paging is on.
 */
import { PAGE_SIZE } from '../x86/address.js';
import { decode, Mnemonic, Register } from '../x86/decode.js';
import { type CpuRegisters, CR0_TS, lostItsMode } from '../x86/registers.js';
import type { View } from '../x86/view.js';
import { type CpuState, readSituation } from '../xen/cpus.js';
import { attempt } from '../xen/damage.js';
import { guestTables } from '../xen/descriptors.js';
import { listDomains } from '../xen/domains.js';
import type { Xen } from '../xen/xen.js';
import type { Target } from './target.js';

const CR0_PE = 1n;
const CR0_ET = 1n << 4n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;
const EFER_SVME = 1n << 12n;
const RFLAGS_QUIET = 2;

/** Xen's 64-bit code segment, in the trampoline's table and in its own (Xen 4.17: asm-x86/config.h). */
const BOOT_CS64 = 0x10;
const XEN_CS = 0xe008;
/** Where in a GDT that may be a guest's Xen's own descriptors begin, and the last byte of them. */
const FIRST_RESERVED_BYTE = 0xe000n;
const LAST_RESERVED_BYTE = 0xefff;
const IDT_BYTES = 4096;

/** Host time within which a few instructions are executed, on a host that is busy with other things. */
const LIMIT_MS = 500;

/** What a CPU has that lost its mode, in an order in which QEMU accepts it. */
const NO_MODE: readonly Partial<CpuRegisters>[] = [{ cr0: CR0_ET }, { efer: 0n }];

/** @returns the view to plan from: the given one when no CPU had to be restarted */
export async function restartLost(target: Target, view: View): Promise<View> {
  const cpus = Array.from({ length: view.cpuCount }, (_, cpu) => cpu);
  const lost = cpus.filter((cpu) => lostItsMode(view.registers(cpu)));
  const sound = cpus.filter((cpu) => !lost.includes(cpu)).map((cpu) => view.registers(cpu));
  if (lost.length === 0 || sound.length === 0) return view;
  const model = sound.find(({ cs }) => cs === XEN_CS) ?? sound[0]!;
  const xen = target.at(view);
  const looked = attempt(() => readSituation(xen, target.facts, listDomains(xen)).cpus);
  if ('damage' in looked) return view;
  for (const cpu of lost) {
    const restarted = await restart(target, xen, looked.value[cpu]!, model);
    // Half way there it would be taken for one that executes Xen; without its mode the audit of a plan does not accept it.
    if (!restarted) for (const part of NO_MODE) await target.machine.writeRegisters(cpu, part);
  }
  return target.machine.capture();
}

/**
 * @returns whether the CPU has its mode again
 * @throws NL_STUB_LOST, NL_STUB_ERROR
 */
async function restart(
  { machine, facts }: Target,
  xen: Xen,
  state: CpuState,
  model: Readonly<CpuRegisters>,
): Promise<boolean> {
  const { cpu, loaded, stack } = state;
  const trampoline = Number(xen.memory.u64(xen.symbol('trampoline_phys')));
  const inTrampoline = (name: string): number => Number(xen.symbol(name) - xen.symbol('trampoline_start'));
  const load = tableLoads(xen);
  if (load === undefined) return false;

  // 16-bit code, until it has the trampoline's GDT and is in its 32-bit code.
  const entry = BigInt(inTrampoline('trampoline_realmode_entry'));
  await machine.writeRegisters(cpu, { cr0: CR0_ET });
  await machine.writeRegisters(cpu, { cs: trampoline >> 4, rip: entry, rflags: RFLAGS_QUIET });
  const in32Bits = BigInt(trampoline + inTrampoline('trampoline_protmode_entry'));
  if (!(await executes(in32Bits))) return false;

  // The stub of such a CPU takes 32 bits of CR3, with a sign: it loads CR3 itself, from EAX.
  const loadsCr3 = findCr3Load(xen, in32Bits);
  if (loadsCr3 === undefined) return false;
  const table = BigInt(xen.memory.physicalAddress(xen.symbol('idle_pg_table')));
  await machine.writeRegisters(cpu, { rip: loadsCr3, rax: table });
  if (!(await executes(loadsCr3 + CR3_LOAD_BYTES))) return false;

  // QEMU takes the trampoline's 64-bit segment for one where EFER says that long mode is on, and reads it where it is in RAM as long
  // as there is no paging.
  await machine.writeRegisters(cpu, { cr4: CR4_PAE });
  await machine.writeRegisters(cpu, { efer: model.efer | EFER_LME | EFER_LMA });
  await machine.writeRegisters(cpu, { cs: BOOT_CS64 });
  await machine.writeRegisters(cpu, { cr0: (model.cr0 | CR0_PE) & ~CR0_TS });

  // The operands lie for a moment under the guest's frame, in a stack that is written to by nobody else.
  const scratch = stack.guestFrame - SCRATCH_BYTES;
  const there = xen.memory.bytes(scratch, Number(SCRATCH_BYTES));
  const operands = Uint8Array.from(there);
  putTable(operands, load.gdtAt, gdtOf(xen, state), LAST_RESERVED_BYTE);
  putTable(operands, load.idtAt, xen.memory.u64(xen.symbol('idt_tables') + BigInt(8 * cpu)), IDT_BYTES - 1);
  put(operands);
  await machine.writeRegisters(cpu, { rip: load.from, rsp: scratch });
  const loadedTables = await executes(load.to);
  put(there);
  if (!loadedTables) return false;
  const own = loaded.object.u64('arch.cr3');
  await machine.writeRegisters(cpu, { cr4: cr4Of(state, model), ...(own === 0n ? {} : { cr3: own }) });
  await machine.writeRegisters(cpu, { cs: XEN_CS, ss: 0, ds: 0, es: 0 });

  if (facts.svm !== undefined && (model.efer & EFER_SVME) !== 0n) {
    await machine.writeRegisters(cpu, { rip: facts.svm.stgi });
    await executes(facts.svm.stgi + STGI_BYTES);
  }
  const usesFpu = loaded.domain.kind !== 'idle' && loaded.object.bool('fpu_dirtied');
  await machine.writeRegisters(cpu, {
    cr0: usesFpu ? model.cr0 & ~CR0_TS : model.cr0 | CR0_TS,
    rip: xen.symbol('start_secondary'),
    rsp: 0n,
  });
  return true;

  async function executes(until: bigint): Promise<boolean> {
    const stop = await machine.runOne(cpu, { until, timeoutMs: LIMIT_MS });
    if (stop.kind === 'reset') await machine.revive();
    return stop.kind === 'breakpoint';
  }

  function put(bytes: Uint8Array): void {
    xen.memory.eachPart(scratch, bytes.length, (at, from, to) => machine.ram.write(at, bytes.subarray(from, to)));
  }
}

const SCRATCH_BYTES = 64n;
const STGI_BYTES = 3n;

/** `mov %eax, %cr3` */
const CR3_LOAD = Buffer.from([0x0f, 0x22, 0xd8]);
const CR3_LOAD_BYTES = 3n;
/** Bytes of the trampoline's 32-bit code in which it is. */
const CR3_LOAD_WITHIN = 128;

/** Where it stands in the trampoline's 32-bit code, which begins at `start`: in its copy in low memory, the only one that stays. */
function findCr3Load(xen: Xen, start: bigint): bigint | undefined {
  const page = xen.view.page(Math.floor(Number(start) / PAGE_SIZE));
  const offset = Number(start) % PAGE_SIZE;
  const found =
    page === undefined ? -1 : Buffer.from(page.subarray(offset, offset + CR3_LOAD_WITHIN)).indexOf(CR3_LOAD);
  return found < 0 ? undefined : start + BigInt(found);
}

interface TableLoads {
  /** The instruction that loads GDTR; the one that follows loads IDTR. */
  readonly from: bigint;
  readonly to: bigint;
  /** Where their operands lie, in bytes above the stack pointer. */
  readonly gdtAt: number;
  readonly idtAt: number;
}

/** The two instructions of `load_system_tables` that load GDTR and IDTR from the stack; absent where they are not next to each other. */
function tableLoads(xen: Xen): TableLoads | undefined {
  const start = xen.symbol('load_system_tables');
  let gdt: { readonly from: bigint; readonly next: bigint; readonly at: number } | undefined;
  for (const { address, next, mnemonic, raw } of decode(xen.memory.bytes(start, 0x400), start)) {
    const onStack = raw.memoryBase === Register.RSP && raw.memoryIndex === Register.None;
    const at = Number(raw.memoryDisplacement);
    if (mnemonic === Mnemonic.Lgdt && onStack) gdt = { from: address, next, at };
    if (mnemonic !== Mnemonic.Lidt) continue;
    const fits = gdt?.next === address && onStack && Math.max(at, gdt.at) + TABLE_BYTES <= Number(SCRATCH_BYTES);
    return fits ? { from: gdt!.from, to: next, gdtAt: gdt!.at, idtAt: at } : undefined;
  }
  return undefined;
}

/** Bits of CR4 that differ between vCPUs (`pv_make_cr4`): TSD, DE, PGE, FSGSBASE, SMEP, SMAP. */
const CR4_OF_VCPU = (1n << 2n) | (1n << 3n) | (1n << 7n) | (1n << 16n) | (1n << 20n) | (1n << 21n);

/** What Xen noted of the CPU's CR4, where it can be right. */
function cr4Of({ stack }: CpuState, model: Readonly<CpuRegisters>): bigint {
  const noted = stack.info.u64('cr4');
  return ((noted ^ model.cr4) & ~CR4_OF_VCPU) === 0n ? noted : model.cr4;
}

const TABLE_BYTES = 10;

/** What `lgdt` and `lidt` take: the table's last byte, and its address. */
function putTable(bytes: Uint8Array, at: number, base: bigint, last: number): void {
  const view = new DataView(bytes.buffer);
  view.setUint16(at, last, true);
  view.setBigUint64(at + 2, base, true);
}

/** The loaded PV guest's own table, where it has one, in which Xen's descriptors are as well; otherwise the CPU's. */
function gdtOf(xen: Xen, { cpu, loaded }: CpuState): bigint {
  if (loaded.domain.kind === 'pv' && xen.memory.u8(xen.perCpu('full_gdt_loaded', cpu)) !== 0)
    return guestTables(loaded.id);
  return xen.memory.u64(xen.perCpu('gdt', cpu)) - FIRST_RESERVED_BYTE;
}
