/**
 * A profile: what ninelives knows of one exact build of Xen, found by the build-id that the running Xen carries. It has
 * symbols, struct layouts, the types of variables and constants, so nothing else is needed to read that Xen's memory.
 * Files are made by `make.ts`; loading parses a struct or the symbols only when they are asked for.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NinelivesError } from '../common/errors.js';
import { PROFILE_FORMAT, type ProfileFile, unpackSymbols } from './profile-file.js';
import { StructLayout } from './struct-layout.js';
import type { ElfSymbol, SymbolTable } from './symbols.js';
import { parseType, type TypeRef } from './types.js';

export { type Field, StructLayout } from './struct-layout.js';
export type { ElfSymbol, SymbolKind } from './symbols.js';
export type { TypeRef } from './types.js';

const PROFILE_FOLDER = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'profiles');

/** Build-ids for which there is a profile, with the version each describes. */
export function knownProfiles(dir: string = PROFILE_FOLDER): { buildId: string; version: string }[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return [];
  }
  return names
    .filter((name) => /^[0-9a-f]+\.json$/.test(name))
    .sort()
    .map((name) => {
      // The version stands in the first lines, so the rest need not be parsed.
      const head = readFileSync(join(dir, name), 'utf8').slice(0, 2000);
      return { buildId: name.slice(0, -5), version: /"version": "([^"]*)"/.exec(head)?.[1] ?? 'unknown version' };
    });
}

/**
 * Loads the profile of one build of Xen.
 * @param buildId lower-case hexadecimal, as `xl info` prints it and as the running Xen's note has it
 * @throws NL_PROFILE_UNKNOWN when there is none; NL_PROFILE_MISMATCH when the file is damaged or of another format
 */
export function loadProfile(buildId: string, dir: string = PROFILE_FOLDER): Profile {
  const path = join(dir, `${buildId}.json`);
  let text: string;
  try {
    if (!/^[0-9a-f]+$/.test(buildId)) throw new Error('not a build-id');
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const known = knownProfiles(dir).map((p) => `  ${p.buildId}  Xen ${p.version}`);
    throw new NinelivesError(
      'NL_PROFILE_UNKNOWN',
      `no profile for the Xen with build-id ${buildId}; known are:\n${known.join('\n') || '  none'}`,
      { fix: 'Make one with `ninelives profile make` (docs/guides/make-a-profile.md).', cause },
    );
  }
  return parseProfile(text, buildId, path);
}

/** @throws NL_PROFILE_MISMATCH when the text is no profile, or that of another build */
export function parseProfile(text: string, buildId: string, path = 'the profile'): Profile {
  const damaged = (why: string, cause?: unknown): NinelivesError =>
    new NinelivesError('NL_PROFILE_MISMATCH', `${path} cannot be used: ${why}`, {
      fix: 'Restore the file, or make it again with `ninelives profile make`.',
      ...(cause === undefined ? {} : { cause }),
    });
  let file: ProfileFile | null;
  try {
    file = JSON.parse(text) as ProfileFile | null;
  } catch (cause) {
    throw damaged('it is no JSON', cause);
  }
  if (file === null || file.format !== PROFILE_FORMAT)
    throw damaged(`it has format ${file?.format ?? 'none'}, not ${PROFILE_FORMAT}`);
  if (file.buildId !== buildId) throw damaged(`it describes build-id ${file.buildId}`);
  for (const part of ['image', 'structs', 'variables', 'enums', 'aliases', 'constants', 'symbols'] as const)
    if (typeof file[part] !== 'object' || file[part] === null) throw damaged(`the part '${part}' is missing`);
  return new Profile(file);
}

export class Profile {
  readonly buildId: string;
  /** Xen's version with the distribution's suffix, such as `4.17.5+72-g01140da4e8-1`. */
  readonly version: string;
  readonly #file: ProfileFile;
  readonly #structs = new Map<string, StructLayout>();
  readonly #variableTypes = new Map<string, TypeRef>();
  #symbols: SymbolTable | undefined;
  #enumValues: Map<string, number | undefined> | undefined;
  #constants: Map<string, number | bigint> | undefined;

  constructor(file: ProfileFile) {
    this.#file = file;
    this.buildId = file.buildId;
    this.version = file.version;
  }

  /** How the profile was made and what was checked then. */
  get made(): ProfileFile['made'] {
    return this.#file.made;
  }

  get symbols(): SymbolTable {
    this.#symbols ??= unpackSymbols(this.#file);
    return this.#symbols;
  }

  /** All symbols whose name fits, in the order of their addresses. */
  symbolsMatching(pattern: RegExp): ElfSymbol[] {
    return this.symbols.all.filter((s) => pattern.test(s.name));
  }

  hasSymbol(name: string): boolean {
    return this.symbols.named(name).length > 0;
  }

  /**
   * The address of a symbol. A static one whose name several files use is asked for as `file.c#name`.
   * A per-CPU variable `x` is `per_cpu__x`: its address is that of the template, to which a CPU's offset is added.
   * @throws NL_PROFILE_MISMATCH when there is none, or several that differ
   */
  symbol(name: string): bigint {
    const found = this.symbols.named(name);
    const global = found.length > 1 ? found.find((s) => s.global) : undefined;
    const first = global ?? found[0];
    if (first === undefined) throw this.#lacks(`symbol '${name}'`);
    if (global === undefined && found.some((s) => s.address !== first.address))
      throw new NinelivesError(
        'NL_PROFILE_MISMATCH',
        `'${name}' names several static symbols of Xen ${this.version}: ${found.map((s) => `${s.file ?? '?'}#${name}`).join(', ')}`,
        { fix: 'Ask for one of them by that name.' },
      );
    return first.address;
  }

  /** What stands at an address of Xen's image: the function or variable and the distance into it. */
  resolve(va: bigint): { name: string; offset: number } | undefined {
    const found = this.symbols.at(va);
    return found && { name: found.symbol.name, offset: found.offset };
  }

  /** `func+0x12` as Xen prints it, or the bare address where no symbol is near. */
  describe(va: bigint): string {
    const found = this.resolve(va);
    if (found === undefined) return `0x${va.toString(16)}`;
    return found.offset === 0 ? found.name : `${found.name}+0x${found.offset.toString(16)}`;
  }

  /** Whether `va` lies in Xen's permanent code (not in the init code, which Xen frees after boot). */
  isText(va: bigint): boolean {
    const text = this.#textRange();
    return va >= text.start && va < text.end;
  }

  /** The image's sections as linked: name, address, size in bytes. */
  get image(): readonly { name: string; address: bigint; size: number }[] {
    return this.#file.image.map(([name, address, size]) => ({ name, address: BigInt(address), size }));
  }

  hasStruct(name: string): boolean {
    return Object.hasOwn(this.#file.structs, this.#file.aliases[name] ?? name);
  }

  /** Names of all structs and unions. Where units disagree about a name it is `name@unit`. */
  get structNames(): string[] {
    return Object.keys(this.#file.structs);
  }

  /**
   * A struct's or union's layout by its tag, or by its typedef name (`spinlock_t`).
   * @throws NL_PROFILE_MISMATCH when this Xen has none
   */
  struct(name: string): StructLayout {
    let layout = this.#structs.get(name);
    if (layout === undefined) {
      const key = Object.hasOwn(this.#file.structs, name) ? name : this.#file.aliases[name];
      const text = key === undefined ? undefined : this.#file.structs[key];
      if (key === undefined || text === undefined) throw this.#lacks(`struct '${name}'`, this.#variants(name));
      layout = new StructLayout(this, key, text.size, text.members);
      this.#structs.set(name, layout);
    }
    return layout;
  }

  /** Names of all variables whose type is known: globals, statics, per-CPU ones (`per_cpu__x`). */
  get variableNames(): string[] {
    return Object.keys(this.#file.variables);
  }

  /**
   * The type of a global, static or per-CPU (`per_cpu__x`) variable.
   * @throws NL_PROFILE_MISMATCH when it is not known
   */
  variableType(name: string): TypeRef {
    let type = this.#variableTypes.get(name);
    if (type === undefined) {
      const text = Object.hasOwn(this.#file.variables, name) ? this.#file.variables[name] : undefined;
      if (text === undefined) throw this.#lacks(`variable '${name}'`);
      type = parseType(text);
      this.#variableTypes.set(name, type);
    }
    return type;
  }

  /**
   * The value of an enum constant, by its name or as `enum_name.CONSTANT`.
   * @throws NL_PROFILE_MISMATCH when there is none, or several that differ
   */
  enumValue(name: string): number {
    this.#enumValues ??= this.#readEnums();
    const value = this.#enumValues.get(name);
    if (value === undefined) throw this.#lacks(`enum constant '${name}'`);
    return value;
  }

  /**
   * A macro's value, by Xen's own name. A bigint where it can exceed 2^53 (addresses, page flags).
   * @throws NL_PROFILE_MISMATCH when it is not known
   */
  constant(name: string): number | bigint {
    this.#constants ??= new Map(
      Object.entries(this.#file.constants).map(([key, value]) => [
        key,
        typeof value === 'string' ? BigInt(value) : value,
      ]),
    );
    const value = this.#constants.get(name);
    if (value === undefined) throw this.#lacks(`constant '${name}'`);
    return value;
  }

  /** Bytes that a value of this type takes. 0 for void, functions and open arrays. */
  sizeOf(type: TypeRef): number {
    switch (type.kind) {
      case 'void':
      case 'function':
        return 0;
      case 'pointer':
        return 8;
      case 'base':
      case 'enum':
        return type.size;
      case 'struct':
      case 'union':
        return this.struct(type.name).size;
      case 'array':
        return (type.count ?? 0) * this.sizeOf(type.of);
    }
  }

  #range: { start: bigint; end: bigint } | undefined;
  #textRange(): { start: bigint; end: bigint } {
    if (this.#range === undefined) {
      const text = this.#file.image.find(([name]) => name === '.text');
      if (text === undefined) throw this.#lacks('section .text');
      const start = BigInt(text[1]);
      this.#range = { start, end: start + BigInt(text[2]) };
    }
    return this.#range;
  }

  #variants(name: string): string[] {
    return Object.keys(this.#file.structs).filter((key) => key.startsWith(`${name}@`));
  }

  #readEnums(): Map<string, number | undefined> {
    const values = new Map<string, number | undefined>();
    for (const [enumName, constants] of Object.entries(this.#file.enums))
      for (const [name, value] of Object.entries(constants)) {
        values.set(`${enumName}.${name}`, value);
        values.set(name, values.has(name) && values.get(name) !== value ? undefined : value);
      }
    return values;
  }

  #lacks(what: string, variants: string[] = []): NinelivesError {
    const hint = variants.length === 0 ? '' : `; there are ${variants.join(', ')}`;
    return new NinelivesError(
      'NL_PROFILE_MISMATCH',
      `Xen ${this.version} has no ${what}${hint} (profile ${this.buildId})`,
      {
        fix: 'Check that this version of Xen is supported; see docs/design/profiles.md.',
      },
    );
  }
}
