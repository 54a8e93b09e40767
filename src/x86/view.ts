/**
 * A view: all that anyone may see of a frozen machine. Everything above `machine/` reads the box through this
 * interface only, so it works the same on a live box, on a capsule, and on a hand-made one in a test.
 */
import type { CpuRegisters } from './registers.js';

/** State of one CPU's local interrupt controller. Vectors are 0..255, ascending. */
export interface LapicState {
  readonly id: number;
  /** Vectors whose handler has begun and not yet been acknowledged (ISR). */
  readonly inService: readonly number[];
  /** Vectors that wait to be delivered (IRR). */
  readonly requested: readonly number[];
}

/** One redirection entry of an I/O interrupt controller. */
export interface IoApicPin {
  readonly pin: number;
  readonly vector: number;
  readonly masked: boolean;
  readonly level: boolean;
  /** Remote IRR: a level-triggered interrupt was sent and no EOI has come back. */
  readonly remoteIrr: boolean;
}

export interface View {
  readonly cpuCount: number;
  /** Bytes of the box's RAM, end of the highest RAM address. */
  readonly physicalSize: number;
  registers(cpu: number): Readonly<CpuRegisters>;
  lapic(cpu: number): LapicState;
  /**
   * The 4 KiB page with this frame number, to be read and never written to. `undefined` where there is no RAM,
   * or, in a capsule, where the recovery did not read.
   */
  page(frame: number): Uint8Array | undefined;
  /**
   * The same page, for passing over a large table: what is looked at only in this way is not kept in a capsule, where
   * it is `undefined`. Whoever finds something there reads it again with `page`.
   */
  glance(frame: number): Uint8Array | undefined;
  /** How often `page` was asked for RAM that a capsule does not have, since whoever wrote it did not read it. Absent on a machine. */
  readonly lacked?: number | undefined;
}
