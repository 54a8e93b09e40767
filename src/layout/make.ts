/**
 * Makes a profile: struct layouts from a Xen built with DWARF, symbols and build-id from the Xen that runs. The two are
 * the same file, or the second is the distribution's stripped-of-DWARF `xen-syms` and the first a build of the same
 * source; then their code is compared, since equal code is what shows that the layouts hold.
 */
import { NinelivesError } from '../common/errors.js';
import { CONSTANTS_4_17 } from './constants-4.17.js';
import { readUnits } from './dwarf.js';
import { collectLayouts, type Layouts } from './dwarf-layouts.js';
import { ElfFile, isAllocated } from './elf.js';
import { formatProfile, PROFILE_FORMAT, type ProfileFile, packSymbol, type TextCheck } from './profile-file.js';
import type { ElfSymbol, SymbolTable } from './symbols.js';
import { describeValidation, validateLayouts } from './validate.js';

export interface MakeOptions {
  /** The `xen-syms` of the build that runs, where that is not the one with DWARF. */
  readonly symbolsFrom?: string;
  /** Where the types come from, for the reader of the profile: "Debian source package 4.17.5+72-...". */
  readonly source?: string;
  /**
   * `refuse` (the default): the code must be the same but for addresses. `validate`: it may differ as long as nothing
   * in it speaks for a struct that changed (`validate.ts`); what differs is written into the profile.
   */
  readonly onDifferentCode?: 'refuse' | 'validate';
}

export interface MadeProfile {
  readonly buildId: string;
  readonly version: string;
  readonly text: TextCheck;
  /** What to write to `<build-id>.json`. */
  readonly json: string;
}

/** Constant tables by Xen's major and minor version. */
const CONSTANTS: Readonly<Record<string, Readonly<Record<string, number | bigint>>>> = { '4.17': CONSTANTS_4_17 };

/** Compiler-made names of string constants: many, and of no use. */
const NOISE = /^(__func__|__FUNCTION__|__PRETTY_FUNCTION__|__warned|__compound_literal)(\.\d+)?$|^\.L/;

/**
 * Reads both files and builds the profile's text. Takes some seconds.
 * @throws NL_ELF_INVALID for files that cannot be used, NL_SYMBOLS_MISMATCH when the two are not the same Xen,
 *   NL_USAGE for a version of Xen whose constants are not known
 */
export function makeProfile(xenSymsPath: string, options: MakeOptions = {}): MadeProfile {
  const types = ElfFile.read(xenSymsPath);
  const stock = options.symbolsFrom === undefined ? types : ElfFile.read(options.symbolsFrom);
  return makeProfileFrom(types, stock, options);
}

/** As `makeProfile`, of files that are in memory already. */
export function makeProfileFrom(types: ElfFile, stock: ElfFile, options: MakeOptions = {}): MadeProfile {
  const version = xenVersion(stock);
  const minor = /^\d+\.\d+/.exec(version)?.[0] ?? '';
  const constants = CONSTANTS[minor];
  if (constants === undefined)
    throw new NinelivesError('NL_USAGE', `Xen ${version} is not supported: its constants are not known`, {
      fix: `Supported are ${Object.keys(CONSTANTS).join(', ')}; add a table like src/layout/constants-4.17.ts.`,
    });
  const text = checkText(types, stock, options);
  const layouts = collectLayouts(readUnits(types));
  const sections = stock.sections.filter((s) => isAllocated(s) && s.size > 0);
  const base = sections[0]!.address;
  const file: ProfileFile = {
    format: PROFILE_FORMAT,
    buildId: requireBuildId(stock),
    version,
    made: {
      types: options.source ?? 'a build of the same source with debug information',
      typesBuildId: requireBuildId(types),
      compiler: compiler(types),
      text,
    },
    image: sections.map((s) => [s.name, `0x${s.address.toString(16)}`, s.size] as const),
    constants: Object.fromEntries(
      Object.entries(constants).map(([k, v]) => [k, typeof v === 'bigint' ? `0x${v.toString(16)}` : v]),
    ),
    enums: sorted(layouts.enums),
    aliases: sorted(layouts.aliases),
    structs: sorted(new Map([...layouts.structs].map(([k, { size, members }]) => [k, { size, members }]))),
    variables: variableTypes(layouts, types.symbols, stock.symbols),
    symbols: wantedSymbols(stock.symbols, base).map((s) => packSymbol(s, base)),
  };
  return { buildId: file.buildId, version, text, json: formatProfile(file) };
}

function checkText(types: ElfFile, stock: ElfFile, options: MakeOptions): TextCheck {
  const validation = validateLayouts(types, stock);
  const { comparison, verdict } = validation;
  const { total, same, all, confirmed } = comparison;
  const different = [...comparison.different.map((d) => d.name), ...comparison.onlyFirst, ...comparison.onlySecond];
  different.sort((a, b) => (a < b ? -1 : 1));
  const allowed = verdict === 'same-code' || (verdict === 'layouts-hold' && options.onDifferentCode === 'validate');
  if (!allowed)
    throw new NinelivesError(
      'NL_SYMBOLS_MISMATCH',
      `${types.label} and ${stock.label} are not the same Xen:\n${describeValidation(validation).join('\n')}`,
      {
        fix:
          verdict === 'layouts-hold'
            ? 'Build exactly the source, configuration and compiler of the running Xen, or allow differences that leave the layouts alone (docs/guides/make-a-profile.md).'
            : 'Build exactly the source, configuration and compiler of the running Xen (docs/guides/make-a-profile.md).',
      },
    );
  return { verdict, functions: total, same, accesses: all.accesses, accessesConfirmed: confirmed.accesses, different };
}

function requireBuildId(elf: ElfFile): string {
  const id = elf.buildId;
  if (id === undefined)
    throw new NinelivesError('NL_ELF_INVALID', `${elf.label} has no build-id`, {
      fix: 'Link Xen with a linker that supports --build-id.',
    });
  return id;
}

/** Xen's version as its banner has it, the distribution's suffix included. */
function xenVersion(elf: ElfFile): string {
  const section = elf.section('.rodata');
  const text = section === undefined ? '' : Buffer.from(elf.sectionBytes(section)).toString('latin1');
  const versions = [...text.matchAll(/\0(\d+\.\d+(?:\.\d+)?[-+.~\w]*)\0/g)]
    .map((m) => m[1]!)
    .filter((v) => /^4\.\d+/.test(v));
  const best = versions.sort((a, b) => b.length - a.length)[0];
  if (best === undefined)
    throw new NinelivesError('NL_ELF_INVALID', `${elf.label} holds no Xen version, so it is not Xen`, {
      fix: 'Give the xen-syms of a Xen 4 hypervisor.',
    });
  return best;
}

function compiler(elf: ElfFile): string {
  const section = elf.section('.comment');
  return section === undefined ? 'unknown' : Buffer.from(elf.sectionBytes(section)).toString('latin1').split('\0')[0]!;
}

/** Names that the profile holds; a file only where it tells namesakes apart. */
function wantedSymbols(table: SymbolTable, base: bigint): ElfSymbol[] {
  return table.all
    .filter((s) => !NOISE.test(s.name) && s.address >= base)
    .map((s): ElfSymbol => {
      const { file: _, ...rest } = s;
      return table.named(s.name).length > 1 ? s : rest;
    })
    .sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
}

/**
 * Variable types by the name that the stock image's symbols have. The linker's table knows what the DWARF does not (a
 * function's static `x` is `x.3`), so a variable goes from its DWARF address to the symbol there, by name to the stock's.
 */
function variableTypes(layouts: Layouts, from: SymbolTable, to: SymbolTable): Record<string, string> {
  const symbolAt = new Map<bigint, ElfSymbol[]>();
  for (const symbol of from.all) {
    const same = symbolAt.get(symbol.address);
    if (same === undefined) symbolAt.set(symbol.address, [symbol]);
    else same.push(symbol);
  }
  const found = new Map<string, string>();
  for (const variable of layouts.variables) {
    if (variable.address === undefined || NOISE.test(variable.name)) continue;
    const symbols = symbolAt.get(variable.address) ?? [];
    const symbol = symbols.find((s) => s.name === variable.name || s.name.startsWith(`${variable.name}.`));
    if (symbol === undefined) continue;
    const namesakes = to.named(symbol.name);
    if (namesakes.length === 0) continue;
    found.set(
      namesakes.length > 1 && symbol.file !== undefined ? `${symbol.file}#${symbol.name}` : symbol.name,
      variable.type,
    );
  }
  // What assembly or the linker script defines is only declared in C.
  for (const variable of layouts.variables)
    if (variable.address === undefined && !found.has(variable.name) && to.named(variable.name).length > 0)
      found.set(variable.name, variable.type);
  return sorted(found);
}

/** By name, so that two profiles can be compared line by line. */
function sorted<T>(map: ReadonlyMap<string, T>): Record<string, T> {
  return Object.fromEntries([...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
}
