/** The profile file: its shape, and how it is packed so that it is small and a difference can be read line by line. */
import { type ElfSymbol, type SymbolKind, SymbolTable } from './symbols.js';
import type { Verdict } from './validate.js';

/** Raised when an older ninelives could not read a newer file, or the other way round. */
export const PROFILE_FORMAT = 1;

/** What was compared when the profile was made; see `docs/design/profiles.md`. */
export interface TextCheck {
  readonly verdict: Verdict;
  /** Functions of the stock image. */
  readonly functions: number;
  /** Functions whose code is the same but for the addresses in it. */
  readonly same: number;
  /** Memory accesses at a distance from a base register: all, and those found at the same distance in both builds. */
  readonly accesses: number;
  readonly accessesConfirmed: number;
  /** Functions that differ or exist on one side only. */
  readonly different: readonly string[];
}

export interface ProfileFile {
  readonly format: number;
  readonly buildId: string;
  readonly version: string;
  readonly made: {
    /** What the types were read from, in words. */
    readonly types: string;
    /** Build-id of the file that the types were read from. */
    readonly typesBuildId: string;
    readonly compiler: string;
    readonly text: TextCheck;
  };
  /** Name, address, size in bytes of each section that is loaded. */
  readonly image: readonly (readonly [string, string, number])[];
  readonly constants: Readonly<Record<string, number | string>>;
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Typedef name to struct or union name. */
  readonly aliases: Readonly<Record<string, string>>;
  /** Name to size in bytes and members (`types.ts` says how a member is written). */
  readonly structs: Readonly<
    Record<string, { readonly size: number; readonly members: Readonly<Record<string, string>> }>
  >;
  /** Variable to type. */
  readonly variables: Readonly<Record<string, string>>;
  readonly symbols: readonly PackedSymbol[];
}

/**
 * Offset from the first section, kind, size in bytes, name, and the file where namesakes have to be told apart. Kinds
 * are f(unction), o(bject), l(abel), in capitals for global symbols. An array, since JSON parses that fastest.
 */
export type PackedSymbol = readonly [number, string, number, string, string?];

const LETTERS: Readonly<Record<SymbolKind, string>> = { function: 'f', object: 'o', label: 'l' };

/** One symbol as the file holds it. */
export function packSymbol(symbol: ElfSymbol, base: bigint): PackedSymbol {
  const letter = LETTERS[symbol.kind];
  const kind = symbol.global ? letter.toUpperCase() : letter;
  const offset = Number(symbol.address - base);
  return symbol.file === undefined
    ? [offset, kind, symbol.size, symbol.name]
    : [offset, kind, symbol.size, symbol.name, symbol.file];
}

export function unpackSymbols(file: ProfileFile): SymbolTable {
  const base = imageBase(file);
  const kinds: Record<string, SymbolKind> = { f: 'function', o: 'object', l: 'label' };
  const symbols = file.symbols.map(([offset, letter, size, name, source]): ElfSymbol => {
    const kind = letter.toLowerCase();
    const symbol = {
      name,
      address: base + BigInt(offset),
      size,
      kind: kinds[kind] ?? 'label',
      global: letter !== kind,
    };
    return source === undefined ? symbol : { ...symbol, file: source };
  });
  const ranges = file.image.map(([name, address, size]) => ({
    name,
    address: BigInt(address),
    end: BigInt(address) + BigInt(size),
  }));
  return new SymbolTable(symbols, ranges);
}

/** The address that packed symbols count from. */
export const imageBase = (file: Pick<ProfileFile, 'image'>): bigint => BigInt(file.image[0]![1]);

/** The file's text: one struct, enum, variable or symbol a line. */
export function formatProfile(file: ProfileFile): string {
  const record = (value: Readonly<Record<string, unknown>>): string =>
    `{\n${Object.entries(value)
      .map(([key, entry]) => `${JSON.stringify(key)}: ${JSON.stringify(entry)}`)
      .join(',\n')}\n}`;
  const list = (value: readonly unknown[]): string => `[\n${value.map((v) => JSON.stringify(v)).join(',\n')}\n]`;
  const parts = Object.entries(file).map(([key, value]: [string, unknown]) => {
    const text = Array.isArray(value)
      ? list(value)
      : typeof value === 'object' && value !== null
        ? record(value as Record<string, unknown>)
        : JSON.stringify(value);
    return `${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${parts.join(',\n')}\n}\n`;
}
