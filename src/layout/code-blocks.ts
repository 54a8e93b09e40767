/** Cuts the code of an image into functions and assembly routines, under names that two builds have in common. */
import { type ElfFile, isExecutable } from './elf.js';
import type { ElfSymbol } from './symbols.js';

export interface CodeBlock {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** Number suffixes of clones and statics vary with unrelated changes in the same file. */
export const stableName = (name: string): string => name.replace(/\.\d+(?=$|\.)/g, '');

/**
 * Every piece of code by its name. Namesakes get a number in the order of their addresses, since files are linked in
 * the same order in builds of the same source.
 */
export function codeBlocks(elf: ElfFile): Map<string, CodeBlock> {
  const blocks = new Map<string, CodeBlock>();
  for (const section of elf.sections) {
    if (!isExecutable(section) || section.size === 0) continue;
    const end = section.address + BigInt(section.size);
    const starts = startsIn(elf, section.address, end);
    starts.forEach((symbol, i) => {
      const next = starts[i + 1]?.address ?? end;
      const stop =
        symbol.size > 0 && symbol.address + BigInt(symbol.size) < next ? symbol.address + BigInt(symbol.size) : next;
      const bytes = elf.bytesAt(symbol.address, Number(stop - symbol.address));
      if (bytes === undefined || bytes.length === 0) return;
      const name = `${symbol.file === undefined ? '' : `${symbol.file}#`}${stableName(symbol.name)}`;
      let key = name;
      for (let n = 2; blocks.has(key); n++) key = `${name} (${n})`;
      blocks.set(key, { address: symbol.address, bytes });
    });
  }
  return blocks;
}

/** The best symbol of each address that begins a block, ascending. Labels inside a sized function begin none. */
function startsIn(elf: ElfFile, from: bigint, to: bigint): ElfSymbol[] {
  const addresses = [...new Set(elf.symbols.all.map((s) => s.address).filter((a) => a >= from && a < to))];
  addresses.sort((a, b) => (a < b ? -1 : 1));
  const starts: ElfSymbol[] = [];
  for (const address of addresses) {
    const found = elf.symbols.at(address);
    if (found?.offset === 0) starts.push(found.symbol);
  }
  return starts;
}
