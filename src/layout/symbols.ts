/** A symbol table: name to address, and address to "function plus offset" as a person wants to read it. */

export type SymbolKind = 'function' | 'object' | 'label';

export interface ElfSymbol {
  readonly name: string;
  readonly address: bigint;
  /** Bytes; 0 where the assembler did not say. */
  readonly size: number;
  /** `label`: untyped, as most of Xen's assembly entry points and linker-script marks are. */
  readonly kind: SymbolKind;
  readonly global: boolean;
  /** The source file of a static symbol, where known ("credit2.c"). */
  readonly file?: string;
}

/** A part of the image that holds symbols. */
export interface SymbolRange {
  readonly name: string;
  readonly address: bigint;
  readonly end: bigint;
}

/** Linker-script marks: they stand at an address without being what lives there. */
const MARK =
  /^_*(start|end|stext|etext|sinittext|einittext|srodata|erodata|sdata|edata|sbss|ebss|2M_.*|.*_(start|end)|init_begin|init_end|[se]textentry|[se]_?\w*text)$|^__per_cpu|^__start_|^__stop_|^__end_|^__initcall|^(\.|\$)/;

/** Higher is the better name for an address. */
function rank(symbol: ElfSymbol): number {
  let score = symbol.kind === 'function' ? 16 : symbol.kind === 'object' ? 12 : 0;
  if (symbol.kind === 'label' && MARK.test(symbol.name)) score -= 8;
  if (symbol.global) score += 3;
  if (symbol.size > 0) score += 2;
  if (symbol.name.startsWith('_')) score -= 1;
  if (symbol.name.includes('.')) score -= 1;
  return score;
}

export class SymbolTable {
  readonly all: readonly ElfSymbol[];
  readonly ranges: readonly SymbolRange[];
  readonly #byName = new Map<string, ElfSymbol[]>();
  /** Best symbol of each address, ascending; built on first use. */
  #order: { readonly symbols: ElfSymbol[]; readonly addresses: BigUint64Array } | undefined;

  constructor(symbols: readonly ElfSymbol[], ranges: readonly SymbolRange[]) {
    this.all = symbols;
    this.ranges = ranges;
    for (const symbol of symbols) {
      const same = this.#byName.get(symbol.name);
      if (same === undefined) this.#byName.set(symbol.name, [symbol]);
      else same.push(symbol);
    }
  }

  /**
   * All symbols of this name; several where static ones share it. `file.c#name` asks for the static one of a file,
   * as Xen itself writes such symbols.
   */
  named(name: string): readonly ElfSymbol[] {
    const exact = this.#byName.get(name);
    if (exact !== undefined) return exact;
    const hash = name.indexOf('#');
    if (hash < 0) return [];
    return (this.#byName.get(name.slice(hash + 1)) ?? []).filter((s) => s.file === name.slice(0, hash));
  }

  /** The symbol that best says what lives at `va`, and how far into it; `undefined` outside the image. */
  at(va: bigint): { symbol: ElfSymbol; offset: number } | undefined {
    const range = this.ranges.find((r) => va >= r.address && va < r.end);
    if (range === undefined) return undefined;
    this.#order ??= this.#sort();
    const { symbols, addresses } = this.#order;
    let low = 0;
    let high = symbols.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (addresses[middle]! <= va) low = middle + 1;
      else high = middle;
    }
    let fallback: ElfSymbol | undefined;
    // A label inside a sized function must not hide the function, so look back a little for one that covers `va`.
    for (let i = low - 1, steps = 0; i >= 0 && steps < 32; i--, steps++) {
      const symbol = symbols[i]!;
      if (symbol.address < range.address) break;
      if (symbol.size > 0 && va < symbol.address + BigInt(symbol.size))
        return { symbol, offset: Number(va - symbol.address) };
      // A typed symbol that ends before `va` says nothing of it, unless nothing better follows.
      if (fallback === undefined || (fallback.kind === 'label' && MARK.test(fallback.name))) fallback = symbol;
      if (symbol.kind !== 'label') break;
    }
    return fallback && { symbol: fallback, offset: Number(va - fallback.address) };
  }

  /** The lowest symbol address above `va`: where whatever stands at `va` ends at the latest. */
  after(va: bigint): bigint | undefined {
    this.#order ??= this.#sort();
    const { addresses } = this.#order;
    let low = 0;
    let high = addresses.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (addresses[middle]! <= va) low = middle + 1;
      else high = middle;
    }
    return addresses[low];
  }

  #sort(): { symbols: ElfSymbol[]; addresses: BigUint64Array } {
    const best = new Map<bigint, ElfSymbol>();
    for (const symbol of this.all) {
      const other = best.get(symbol.address);
      if (other === undefined || rank(symbol) > rank(other)) best.set(symbol.address, symbol);
    }
    const symbols = [...best.values()].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    return { symbols, addresses: BigUint64Array.from(symbols, (s) => s.address) };
  }
}
