/**
 * A reader for DWARF 4 and 5, limited to what describes data: types, their members, variables and enumerators. Code
 * (call sites, scopes, line tables, locations in registers) is stepped over. Numbers after the DWARF 5 standard, section 7.
 */
import { Cursor, elfInvalid } from './bytes.js';
import { debugSections, FormReader, isConstant, type Sections, type UnitContext } from './dwarf-forms.js';
import type { ElfFile } from './elf.js';

/** The tags that are kept; all others are stepped over, their children are not. */
export const TAG = {
  array: 0x01,
  enumeration: 0x04,
  member: 0x0d,
  pointer: 0x0f,
  reference: 0x10,
  compileUnit: 0x11,
  structure: 0x13,
  subroutine: 0x15,
  typedef: 0x16,
  union: 0x17,
  subrange: 0x21,
  base: 0x24,
  const: 0x26,
  enumerator: 0x28,
  variable: 0x34,
  volatile: 0x35,
  restrict: 0x37,
  unspecified: 0x3b,
  partialUnit: 0x3c,
  atomic: 0x47,
} as const;

const KEPT = new Set<number>(Object.values(TAG));

/** One debugging information entry, with the attributes that matter here. */
export interface Die {
  readonly tag: number;
  /** Offset in .debug_info; what `type` and `origin` refer to. */
  readonly offset: number;
  /** Children of a kept tag; empty for most. */
  readonly children: Die[];
  name?: string;
  type?: number;
  /** DW_AT_specification or DW_AT_abstract_origin: the entry that this one completes. */
  origin?: number;
  byteSize?: number;
  bitSize?: number;
  memberOffset?: number;
  /** From the start of the struct, in bits (DWARF 5 style). */
  dataBitOffset?: number;
  /** From the most significant bit of the storage unit (DWARF 4 style). */
  bitOffset?: number;
  encoding?: number;
  constant?: number;
  upperBound?: number;
  count?: number;
  declaration?: boolean;
  /** Fixed address from a location that is just an address. */
  address?: bigint;
}

export interface Unit {
  /** Path of the source file as the compiler was given it. */
  readonly name: string;
  /** All kept entries of the unit by offset. */
  readonly dies: ReadonlyMap<number, Die>;
}

interface Abbreviation {
  readonly tag: number;
  readonly hasChildren: boolean;
  /** Triples: attribute, form, implicit constant. */
  readonly attributes: readonly number[];
}

/** Whether the file carries DWARF at all. */
export const hasDwarf = (elf: ElfFile): boolean => elf.section('.debug_info') !== undefined;

/**
 * Reads the compile units of a file one after the other; a unit is garbage once the next is asked for, which keeps the
 * memory small for the 14 MB of a Xen.
 * @throws NL_ELF_INVALID when there is no DWARF, or it is truncated, damaged or of an unsupported kind
 */
export function* readUnits(elf: ElfFile): Generator<Unit> {
  if (!hasDwarf(elf)) throw elfInvalid('the file has no DWARF', `${elf.label}: no section .debug_info`);
  const sections = debugSections(elf);
  const reader = new UnitReader(sections, elf.label);
  for (let at = 0; at < sections.info.length; ) {
    const { unit, next } = reader.read(at);
    if (unit !== undefined) yield unit;
    at = next;
  }
}

class UnitReader {
  readonly #forms: FormReader;
  readonly #abbreviations = new Map<number, Map<number, Abbreviation>>();

  constructor(
    readonly sections: Sections,
    readonly label: string,
  ) {
    this.#forms = new FormReader(sections, label);
  }

  read(start: number): { unit: Unit | undefined; next: number } {
    const cursor = new Cursor(this.sections.info, `${this.label}: section .debug_info`, start);
    let offsetSize: 4 | 8 = 4;
    let length = cursor.u32();
    if (length === 0xffffffff) {
      offsetSize = 8;
      length = cursor.size64();
    } else if (length >= 0xfffffff0) throw this.#forms.invalid('a unit has a reserved length', start);
    const next = cursor.pos + length;
    if (next > this.sections.info.length) throw this.#forms.invalid('a unit is longer than the section', start);
    // Padding between units is legal and holds nothing.
    if (length === 0) return { unit: undefined, next };
    const version = cursor.u16();
    if (version !== 4 && version !== 5)
      throw this.#forms.invalid(`DWARF version ${version} is not supported (4 and 5 are)`, start);
    const offset = (): number => (offsetSize === 8 ? cursor.size64() : cursor.u32());
    let unitType = 1;
    if (version === 5) unitType = cursor.u8();
    let addressSize = version === 5 ? cursor.u8() : 0;
    const abbrevOffset = offset();
    if (version === 4) addressSize = cursor.u8();
    if (addressSize !== 8) throw this.#forms.invalid(`addresses of ${addressSize} bytes are not supported`, start);
    if (unitType !== 1 && unitType !== 3)
      throw this.#forms.invalid(`unit type ${unitType} (type units, split DWARF) is not supported`, start);
    const context: UnitContext = { version, offsetSize, start, strOffsetsBase: offsetSize * 2, addrBase: 8 };
    return {
      unit: this.#readDies(new Cursor(this.sections.info, cursor.what, cursor.pos, next), context, abbrevOffset),
      next,
    };
  }

  #readDies(cursor: Cursor, context: UnitContext, abbrevOffset: number): Unit {
    const table = this.#abbreviationsAt(abbrevOffset);
    const dies = new Map<number, Die>();
    const scope: (Die | undefined)[] = [];
    let root: Die | undefined;
    const first = cursor.pos;
    while (cursor.pos < cursor.end) {
      const at = cursor.pos;
      const code = cursor.uleb();
      if (code === 0) {
        scope.pop();
        continue;
      }
      const abbreviation = table.get(code);
      if (abbreviation === undefined) throw this.#forms.invalid(`abbreviation ${code} does not exist`, at);
      const { tag, attributes } = abbreviation;
      let die: Die | undefined;
      if (KEPT.has(tag)) {
        die = { tag, offset: at, children: [] };
        if (at === first) {
          root = die;
          this.#bases(new Cursor(cursor.bytes, cursor.what, cursor.pos, cursor.end), attributes, context);
        }
        for (let i = 0; i < attributes.length; i += 3)
          this.#attribute(die, cursor, context, attributes[i]!, attributes[i + 1]!, attributes[i + 2]!);
        dies.set(at, die);
        scope[scope.length - 1]?.children.push(die);
      } else for (let i = 0; i < attributes.length; i += 3) this.#forms.skip(cursor, context, attributes[i + 1]!);
      if (abbreviation.hasChildren) scope.push(die);
    }
    return { name: root?.name ?? '', dies };
  }

  /** A unit's first entry may use indexed strings before it says where their table begins, so look for that first. */
  #bases(cursor: Cursor, attributes: readonly number[], context: UnitContext): void {
    for (let i = 0; i < attributes.length; i += 3) {
      const form = attributes[i + 1]!;
      if (attributes[i] === 0x72) context.strOffsetsBase = this.#forms.number(cursor, context, form, 0);
      else if (attributes[i] === 0x73) context.addrBase = this.#forms.number(cursor, context, form, 0);
      else this.#forms.skip(cursor, context, form);
    }
  }

  #attribute(die: Die, cursor: Cursor, context: UnitContext, attribute: number, form: number, implicit: number): void {
    switch (attribute) {
      case 0x03:
        die.name = this.#forms.string(cursor, context, form);
        return;
      case 0x49:
        die.type = this.#forms.reference(cursor, context, form);
        return;
      case 0x47: // specification
      case 0x31: // abstract origin
        die.origin = this.#forms.reference(cursor, context, form);
        return;
      case 0x02: {
        const address = this.#forms.location(cursor, context, form);
        if (address !== undefined) die.address = address;
        return;
      }
    }
    if (!isConstant(form)) {
      if (attribute === 0x3c) die.declaration = form === 0x19 || (form === 0x0c && cursor.bytes[cursor.pos] !== 0);
      this.#forms.skip(cursor, context, form);
      return;
    }
    const value = this.#forms.number(cursor, context, form, implicit);
    switch (attribute) {
      case 0x0b:
        die.byteSize = value;
        return;
      case 0x0d:
        die.bitSize = value;
        return;
      case 0x0c:
        die.bitOffset = value;
        return;
      case 0x38:
        die.memberOffset = value;
        return;
      case 0x6b:
        die.dataBitOffset = value;
        return;
      case 0x3e:
        die.encoding = value;
        return;
      case 0x1c:
        die.constant = value;
        return;
      case 0x2f:
        die.upperBound = value;
        return;
      case 0x37:
        die.count = value;
        return;
    }
  }

  #abbreviationsAt(offset: number): Map<number, Abbreviation> {
    const known = this.#abbreviations.get(offset);
    if (known !== undefined) return known;
    if (offset > this.sections.abbrev.length)
      throw this.#forms.invalid('the abbreviations lie outside their section', offset);
    const cursor = new Cursor(this.sections.abbrev, `${this.label}: section .debug_abbrev`, offset);
    const table = new Map<number, Abbreviation>();
    for (let code = cursor.uleb(); code !== 0; code = cursor.uleb()) {
      const tag = cursor.uleb();
      const hasChildren = cursor.u8() !== 0;
      const attributes: number[] = [];
      for (;;) {
        const attribute = cursor.uleb();
        const form = cursor.uleb();
        const implicit = form === 0x21 ? cursor.sleb() : 0;
        if (attribute === 0 && form === 0) break;
        attributes.push(attribute, form, implicit);
      }
      table.set(code, { tag, hasChildren, attributes });
    }
    this.#abbreviations.set(offset, table);
    return table;
  }
}
