/**
 * A machine for tests of the injector: the synthetic Xen, whose CPUs really execute. It stands in for QEMU's debugger stub, down to
 * breakpoints that count for all CPUs and interrupts that come between two instructions when a test wants it.
 */
import type { Machine } from '../../src/machine/machine.js';
import type { RunOneOptions } from '../../src/machine/run-control.js';
import type { Stop } from '../../src/machine/stop.js';
import { decode, Mnemonic } from '../../src/x86/decode.js';
import { InterpretedCpu, type InterpretedMemory } from '../../src/x86/interpret/cpu.js';
import { compile } from '../../src/x86/interpret/instructions.js';
import { type CpuRegisters, ENCODING_ORDER } from '../../src/x86/registers.js';
import type { View } from '../../src/x86/view.js';
import { FakeXen } from '../support/fake-xen.js';

/** A run that takes more instructions has no end, for a test. */
const LONG = 20_000;

export class FakeMachine {
  readonly box = new FakeXen();
  readonly breakpoints = new Set<bigint>();
  readonly ram = {
    page: (frame: number) => this.box.page(frame),
    write: (address: number, bytes: Uint8Array) => this.box.memory.write(address, bytes),
  };
  state: 'running' | 'frozen' = 'frozen';
  /** Addresses of all instructions that were executed, by CPU. */
  readonly executed: bigint[][] = [[], []];
  /** Called before each instruction of `runOne`: a test may change registers, as an interrupt does. */
  beforeInstruction: (cpu: number) => void = () => {};
  /** Called when the other CPUs or the whole machine run. */
  elsewhere: () => void = () => {};
  readonly halted = new Set<number>();
  stepsTaken = 0;

  get cpuCount(): number {
    return this.box.cpuCount;
  }

  /** As what the injector takes it for. */
  get machine(): Machine {
    return this as unknown as Machine;
  }

  freeze(): Promise<Stop> {
    this.state = 'frozen';
    return Promise.resolve({ kind: 'paused', atMs: 0 });
  }

  resume(): Promise<void> {
    this.state = 'running';
    this.elsewhere();
    return Promise.resolve();
  }

  /** Registers as they are now, memory as it is when looked at. */
  capture(): Promise<View> {
    const { box } = this;
    const registers = [0, 1].map((cpu) => ({ ...box.registers(cpu), cr3: this.root }));
    return Promise.resolve({
      cpuCount: box.cpuCount,
      physicalSize: box.physicalSize,
      registers: (cpu) => registers[cpu]!,
      lapic: (cpu) => box.lapic(cpu),
      page: (frame) => box.page(frame),
      glance: (frame) => box.page(frame),
    });
  }

  registers(cpu: number): Promise<CpuRegisters> {
    return Promise.resolve({ ...this.box.registers(cpu), cr3: this.root });
  }

  hiddenRegisters(cpu: number): Promise<{ halted: boolean }> {
    return Promise.resolve({ halted: this.halted.has(cpu) });
  }

  writeRegisters(cpu: number, values: Partial<CpuRegisters>): Promise<void> {
    Object.assign(this.box.registers(cpu), values);
    return Promise.resolve();
  }

  writePhysicalStub(address: number, bytes: Uint8Array): Promise<void> {
    this.box.memory.write(address, bytes);
    return Promise.resolve();
  }

  setBreakpoints(addresses: readonly bigint[]): Promise<void> {
    for (const address of addresses) this.breakpoints.add(address);
    return Promise.resolve();
  }

  clearBreakpoints(addresses: readonly bigint[]): Promise<void> {
    for (const address of addresses) this.breakpoints.delete(address);
    return Promise.resolve();
  }

  stepOne(cpu: number): Promise<Stop> {
    this.stepsTaken++;
    this.#execute(cpu);
    return Promise.resolve(this.#stop(cpu));
  }

  runOne(cpu: number, { until }: RunOneOptions): Promise<Stop> {
    // A CPU that stands on a breakpoint when it is let go steps off it.
    let standing: bigint | undefined = this.box.registers(cpu).rip;
    for (let n = 0; n < LONG; n++) {
      this.beforeInstruction(cpu);
      const { rip } = this.box.registers(cpu);
      const hit = rip === until || (rip !== standing && this.breakpoints.has(rip));
      standing = undefined;
      if (hit) return Promise.resolve(this.#stop(cpu));
      if (this.halted.has(cpu) || !this.#isCode(rip)) return Promise.resolve({ kind: 'paused', atMs: 0 });
      this.#execute(cpu);
    }
    return Promise.resolve({ kind: 'paused', atMs: 0 });
  }

  runThese(): Promise<Stop> {
    this.elsewhere();
    return Promise.resolve({ kind: 'paused', atMs: 0 });
  }

  get root(): bigint {
    return BigInt(this.box.xen().memory.root);
  }

  /** Has vector `vector` of `cpu` handled by `code`, which `common_interrupt` consists of then. */
  setHandler(cpu: number, vector: number, code: readonly number[]): void {
    const { box } = this;
    const table = box.alloc(16 * 256, 4096);
    box.put(box.symbol('idt_tables') + BigInt(8 * cpu), 8, table);
    const first = box.symbol('do_IRQ');
    const gate = table + BigInt(16 * vector);
    for (const [offset, shift] of [
      [0n, 0n],
      [6n, 16n],
    ] as const)
      box.put(gate + offset, 2, (first >> shift) & 0xffffn);
    box.put(gate + 8n, 4, first >> 32n);
    const distance = Number(box.symbol('common_interrupt') - (first + 6n));
    box.putBytes(first, [0x90, 0xe9, ...new Uint8Array(Int32Array.of(distance).buffer)]); // nop; jmp common_interrupt
    box.putBytes(box.symbol('common_interrupt'), code);
  }

  /** An interrupt: the frame that is pushed, and the first instruction of its handler. */
  interrupt(cpu: number, vector: number): void {
    const registers = this.box.registers(cpu);
    const { rip, rsp, rflags } = registers;
    const frame = [BigInt(vector) << 32n, rip, 0xe008n, BigInt(rflags), rsp, 0xe010n];
    const at = (rsp & ~15n) - 48n;
    for (const [n, word] of frame.entries()) this.box.put(at + BigInt(8 * n), 8, word);
    Object.assign(registers, { rsp: at, rip: this.box.symbol('do_IRQ') });
  }

  #isCode(rip: bigint): boolean {
    return this.box.profile.isText(rip);
  }

  #stop(cpu: number): Stop {
    return { kind: 'breakpoint', cpu, address: this.box.registers(cpu).rip, atMs: 0 };
  }

  #execute(cpu: number): void {
    const registers = this.box.registers(cpu);
    const { rip } = registers;
    const memory = this.box.xen().memory;
    this.executed[cpu]!.push(rip);
    for (const instruction of decode(memory.bytes(rip, 15), rip)) {
      if (instruction.mnemonic === Mnemonic.Hlt) this.halted.add(cpu);
      if (instruction.mnemonic === Mnemonic.Iretq) {
        const word = (n: number): bigint => memory.u64(registers.rsp + BigInt(8 * n));
        Object.assign(registers, { rip: word(0), cs: Number(word(1)), rflags: Number(word(2)), rsp: word(3) });
        return;
      }
      const interpreted = new InterpretedCpu(registers, this.#memory());
      interpreted.rip = instruction.next;
      compile(instruction)?.(interpreted);
      for (const [n, name] of ENCODING_ORDER.entries()) registers[name] = interpreted.r[n]!;
      Object.assign(registers, { rip: interpreted.rip, rflags: interpreted.flags });
      return;
    }
  }

  #memory(): InterpretedMemory {
    const { memory } = this.box.xen();
    return {
      read: (address, size) => {
        const bytes = memory.bytes(address, size);
        return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
      },
      write: (address, size, value) => this.box.put(address, size as 1 | 2 | 4 | 8, value),
    };
  }
}
