/**
 * Foretells the way of a CPU that stands still: which instructions it would execute next if nothing interrupts it, without
 * touching the machine. The way ends where it is not certain any more.
 */
import { decode, Mnemonic } from '../decode.js';
import type { PageSource } from '../paging.js';
import type { CpuRegisters } from '../registers.js';
import { InterpretedCpu, Unpredictable } from './cpu.js';
import { compile, type Execute } from './instructions.js';
import { CopiedMemory } from './memory.js';

export interface Prediction {
  /** Where the CPU stands before its first instruction, after the first, and so on: one more than instructions. */
  readonly path: readonly bigint[];
  /** The general registers at each of these places, in the encoding order of x86. */
  readonly registers: readonly BigUint64Array[];
  /**
   * - `limit`: as far as was asked for;
   * - `unknown`: the next instruction is one that only the real CPU can execute;
   * - `left`: the next instruction lies outside the code that was asked about;
   * - `spinning`: the CPU waits for another one, going round with PAUSE.
   */
  readonly end: 'limit' | 'unknown' | 'left' | 'spinning';
}

interface Compiled {
  readonly next: bigint;
  readonly execute: Execute | undefined;
  readonly pauses: boolean;
}

/** Decoded instructions by address. Valid as long as the code does not change. */
export type CodeCache = Map<bigint, Compiled>;

export interface PredictOptions {
  /** At most so many instructions. */
  readonly limit: number;
  /** Which code is foretold. */
  readonly within: (rip: bigint) => boolean;
  readonly cache?: CodeCache;
}

/** After so many PAUSEs on its way a CPU counts as spinning. */
const SPINS = 3;

export function predict(
  source: PageSource,
  registers: Readonly<CpuRegisters>,
  { limit, within, cache = new Map() }: PredictOptions,
): Prediction {
  const memory = new CopiedMemory(source, registers.cr3);
  const cpu = new InterpretedCpu(registers, memory);
  const path = [cpu.rip];
  const seen = [cpu.r.slice()];
  let pauses = 0;
  const ended = (end: Prediction['end']): Prediction => ({ path, registers: seen, end });
  while (path.length <= limit) {
    if (!within(cpu.rip)) return ended('left');
    const compiled = compiledAt(memory, cpu.rip, cache);
    if (compiled?.execute === undefined) return ended('unknown');
    if (compiled.pauses && ++pauses > SPINS) return ended('spinning');
    try {
      cpu.rip = compiled.next;
      compiled.execute(cpu);
    } catch (error) {
      if (error instanceof Unpredictable) return ended('unknown');
      throw error;
    }
    path.push(cpu.rip);
    seen.push(cpu.r.slice());
  }
  return ended('limit');
}

function compiledAt(memory: CopiedMemory, rip: bigint, cache: CodeCache): Compiled | undefined {
  let compiled = cache.get(rip);
  if (compiled === undefined) {
    for (const instruction of decode(memory.code(rip), rip)) {
      const { next, mnemonic } = instruction;
      compiled = { next, execute: compile(instruction), pauses: mnemonic === Mnemonic.Pause };
      cache.set(rip, compiled);
      break;
    }
  }
  return compiled;
}
