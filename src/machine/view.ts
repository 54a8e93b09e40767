/** What a capture gives: registers and interrupt controllers as they were then, pages as they are when looked at. */
import { NinelivesError } from '../common/errors.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { LapicState, View } from '../x86/view.js';
import type { GuestRam } from './ram.js';

export class MachineView implements View {
  readonly cpuCount: number;
  readonly physicalSize: number;
  readonly page: (frame: number) => Uint8Array | undefined;
  readonly glance: (frame: number) => Uint8Array | undefined;
  readonly #registers: readonly CpuRegisters[];
  readonly #lapics: readonly LapicState[];

  /** @param ram where pages come from */
  constructor(registers: readonly CpuRegisters[], lapics: readonly LapicState[], ram: Pick<GuestRam, 'size' | 'page'>) {
    this.cpuCount = registers.length;
    this.physicalSize = ram.size;
    this.page = (frame) => ram.page(frame);
    this.glance = this.page;
    this.#registers = registers;
    this.#lapics = lapics;
  }

  registers(cpu: number): Readonly<CpuRegisters> {
    return this.#registers[cpu] ?? noSuchCpu(cpu);
  }

  lapic(cpu: number): LapicState {
    return this.#lapics[cpu] ?? noSuchCpu(cpu);
  }
}

function noSuchCpu(cpu: number): never {
  throw new NinelivesError('NL_INTERNAL', `the box has no CPU ${cpu}`);
}
