/**
 * A view that can be written to without touching the machine: pages are copied when first written. Later steps of a
 * plan see what earlier steps changed, and the check audits the outcome before anything is committed.
 */
import { PAGE_SIZE, type PhysicalAddress } from '../x86/address.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { LapicState, View } from '../x86/view.js';

export class Overlay implements View {
  readonly #base: View;
  readonly #pages = new Map<number, Uint8Array>();
  readonly #registers = new Map<number, CpuRegisters>();

  constructor(base: View) {
    this.#base = base;
  }

  get cpuCount(): number {
    return this.#base.cpuCount;
  }

  get physicalSize(): number {
    return this.#base.physicalSize;
  }

  get lacked(): number | undefined {
    return this.#base.lacked;
  }

  registers(cpu: number): Readonly<CpuRegisters> {
    return this.#registers.get(cpu) ?? this.#base.registers(cpu);
  }

  lapic(cpu: number): LapicState {
    return this.#base.lapic(cpu);
  }

  page(frame: number): Uint8Array | undefined {
    return this.#pages.get(frame) ?? this.#base.page(frame);
  }

  glance(frame: number): Uint8Array | undefined {
    return this.#pages.get(frame) ?? this.#base.glance(frame);
  }

  /** Writes `bytes`, which must not cross a page boundary. */
  write(address: PhysicalAddress, bytes: Uint8Array): void {
    const frame = Math.floor(address / PAGE_SIZE);
    let page = this.#pages.get(frame);
    if (page === undefined) {
      page = Uint8Array.from(this.#base.page(frame) ?? new Uint8Array(PAGE_SIZE));
      this.#pages.set(frame, page);
    }
    page.set(bytes, address % PAGE_SIZE);
  }

  setRegisters(cpu: number, set: Partial<CpuRegisters>): void {
    this.#registers.set(cpu, { ...this.registers(cpu), ...set });
  }
}
