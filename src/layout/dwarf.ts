/**
 * A reader for DWARF 4 and 5, limited to what describes data: types, their members, variables and enumerators. Code
 * (call sites, scopes, line tables, locations in registers) is stepped over. Numbers after the DWARF 5 standard, section 7.
 */
import { inflateSync } from 'node:zlib';
import { Cursor, elfInvalid } from './bytes.js';
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

interface Sections {
  readonly info: Uint8Array;
  readonly abbrev: Uint8Array;
  readonly str: Uint8Array;
  readonly lineStr: Uint8Array;
  readonly strOffsets: Uint8Array;
  readonly addr: Uint8Array;
}

interface Abbreviation {
  readonly tag: number;
  readonly hasChildren: boolean;
  /** Triples: attribute, form, implicit constant. */
  readonly attributes: readonly number[];
}

interface UnitContext {
  readonly version: number;
  readonly offsetSize: 4 | 8;
  readonly start: number;
  strOffsetsBase: number;
  addrBase: number;
}

const SHF_COMPRESSED = 0x800;

function debugSection(elf: ElfFile, name: string): Uint8Array {
  const section = elf.section(name);
  if (section === undefined) return new Uint8Array(0);
  const bytes = elf.sectionBytes(section);
  if ((section.flags & SHF_COMPRESSED) === 0) return bytes;
  const header = new Cursor(bytes, `${elf.label}: section ${name}`);
  const type = header.u32();
  if (type !== 1)
    throw elfInvalid('a section is compressed with an unknown method', `${elf.label}: section ${name}, method ${type}`);
  header.skip(20);
  try {
    return inflateSync(bytes.subarray(24));
  } catch (cause) {
    throw elfInvalid('a compressed section is damaged', `${elf.label}: section ${name}`, cause);
  }
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
  const sections: Sections = {
    info: debugSection(elf, '.debug_info'),
    abbrev: debugSection(elf, '.debug_abbrev'),
    str: debugSection(elf, '.debug_str'),
    lineStr: debugSection(elf, '.debug_line_str'),
    strOffsets: debugSection(elf, '.debug_str_offsets'),
    addr: debugSection(elf, '.debug_addr'),
  };
  const reader = new UnitReader(sections, elf.label);
  for (let at = 0; at < sections.info.length; ) {
    const { unit, next } = reader.read(at);
    if (unit !== undefined) yield unit;
    at = next;
  }
}

class UnitReader {
  readonly #strings = new Map<number, string>();
  readonly #abbreviations = new Map<number, Map<number, Abbreviation>>();

  constructor(
    readonly sections: Sections,
    readonly label: string,
  ) {}

  read(start: number): { unit: Unit | undefined; next: number } {
    const cursor = new Cursor(this.sections.info, `${this.label}: section .debug_info`, start);
    let offsetSize: 4 | 8 = 4;
    let length = cursor.u32();
    if (length === 0xffffffff) {
      offsetSize = 8;
      length = cursor.size64();
    } else if (length >= 0xfffffff0) throw this.#invalid('a unit has a reserved length', start);
    const next = cursor.pos + length;
    if (next > this.sections.info.length) throw this.#invalid('a unit is longer than the section', start);
    // Padding between units is legal and holds nothing.
    if (length === 0) return { unit: undefined, next };
    const version = cursor.u16();
    if (version !== 4 && version !== 5)
      throw this.#invalid(`DWARF version ${version} is not supported (4 and 5 are)`, start);
    const offset = (): number => (offsetSize === 8 ? cursor.size64() : cursor.u32());
    let unitType = 1;
    if (version === 5) unitType = cursor.u8();
    let addressSize = version === 5 ? cursor.u8() : 0;
    const abbrevOffset = offset();
    if (version === 4) addressSize = cursor.u8();
    if (addressSize !== 8) throw this.#invalid(`addresses of ${addressSize} bytes are not supported`, start);
    if (unitType !== 1 && unitType !== 3)
      throw this.#invalid(`unit type ${unitType} (type units, split DWARF) is not supported`, start);
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
      if (abbreviation === undefined) throw this.#invalid(`abbreviation ${code} does not exist`, at);
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
      } else for (let i = 0; i < attributes.length; i += 3) this.#skip(cursor, context, attributes[i + 1]!);
      if (abbreviation.hasChildren) scope.push(die);
    }
    return { name: root?.name ?? '', dies };
  }

  /** A unit's first entry may use indexed strings before it says where their table begins, so look for that first. */
  #bases(cursor: Cursor, attributes: readonly number[], context: UnitContext): void {
    for (let i = 0; i < attributes.length; i += 3) {
      const form = attributes[i + 1]!;
      if (attributes[i] === 0x72) context.strOffsetsBase = this.#number(cursor, context, form, 0);
      else if (attributes[i] === 0x73) context.addrBase = this.#number(cursor, context, form, 0);
      else this.#skip(cursor, context, form);
    }
  }

  #attribute(die: Die, cursor: Cursor, context: UnitContext, attribute: number, form: number, implicit: number): void {
    switch (attribute) {
      case 0x03:
        die.name = this.#string(cursor, context, form);
        return;
      case 0x49:
        die.type = this.#reference(cursor, context, form);
        return;
      case 0x47: // specification
      case 0x31: // abstract origin
        die.origin = this.#reference(cursor, context, form);
        return;
      case 0x02: {
        const address = this.#location(cursor, context, form);
        if (address !== undefined) die.address = address;
        return;
      }
    }
    if (!isConstant(form)) {
      if (attribute === 0x3c) die.declaration = form === 0x19 || (form === 0x0c && cursor.bytes[cursor.pos] !== 0);
      this.#skip(cursor, context, form);
      return;
    }
    const value = this.#number(cursor, context, form, implicit);
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

  #number(cursor: Cursor, context: UnitContext, form: number, implicit: number): number {
    switch (form) {
      case 0x0b:
        return cursor.u8();
      case 0x05:
        return cursor.u16();
      case 0x06:
        return cursor.u32();
      case 0x07: // An upper bound of -1 (a zero-length array) comes as eight bytes of ones.
        return Number(BigInt.asIntN(64, cursor.u64()));
      case 0x0d:
        return cursor.sleb();
      case 0x0f:
        return cursor.uleb();
      case 0x17:
        return context.offsetSize === 8 ? cursor.size64() : cursor.u32();
      case 0x21:
        return implicit;
      default:
        throw this.#invalid(`form 0x${form.toString(16)} is no number`, cursor.pos);
    }
  }

  #reference(cursor: Cursor, context: UnitContext, form: number): number {
    switch (form) {
      case 0x10:
        return context.offsetSize === 8 ? cursor.size64() : cursor.u32();
      case 0x11:
        return context.start + cursor.u8();
      case 0x12:
        return context.start + cursor.u16();
      case 0x13:
        return context.start + cursor.u32();
      case 0x14:
        return context.start + cursor.size64();
      case 0x15:
        return context.start + cursor.uleb();
      default:
        throw this.#invalid(`form 0x${form.toString(16)} is no supported reference`, cursor.pos);
    }
  }

  #string(cursor: Cursor, context: UnitContext, form: number): string {
    const offset = (): number => (context.offsetSize === 8 ? cursor.size64() : cursor.u32());
    switch (form) {
      case 0x08:
        return cursor.cstring();
      case 0x0e:
        return this.#stringAt(this.sections.str, '.debug_str', offset());
      case 0x1f:
        return new Cursor(
          this.sections.lineStr,
          `${this.label}: section .debug_line_str`,
          this.#inside(this.sections.lineStr, offset()),
        ).cstring();
      case 0x1a:
        return this.#indexed(context, cursor.uleb());
      case 0x25:
        return this.#indexed(context, cursor.u8());
      case 0x26:
        return this.#indexed(context, cursor.u16());
      case 0x27:
        return this.#indexed(context, cursor.u24());
      case 0x28:
        return this.#indexed(context, cursor.u32());
      default:
        throw this.#invalid(`form 0x${form.toString(16)} is no supported string`, cursor.pos);
    }
  }

  #inside(bytes: Uint8Array, offset: number): number {
    if (offset >= bytes.length) throw this.#invalid(`a string lies outside its section`, offset);
    return offset;
  }

  #stringAt(bytes: Uint8Array, section: string, offset: number): string {
    let text = this.#strings.get(offset);
    if (text === undefined) {
      text = new Cursor(bytes, `${this.label}: section ${section}`, this.#inside(bytes, offset)).cstring();
      this.#strings.set(offset, text);
    }
    return text;
  }

  #indexed(context: UnitContext, index: number): string {
    const at = context.strOffsetsBase + index * context.offsetSize;
    const cursor = new Cursor(
      this.sections.strOffsets,
      `${this.label}: section .debug_str_offsets`,
      this.#inside(this.sections.strOffsets, at),
    );
    return this.#stringAt(this.sections.str, '.debug_str', context.offsetSize === 8 ? cursor.size64() : cursor.u32());
  }

  /** The address of a location that is one fixed address; `undefined` for registers, lists and computed places. */
  #location(cursor: Cursor, context: UnitContext, form: number): bigint | undefined {
    if (form !== 0x18 && form !== 0x0a) {
      this.#skip(cursor, context, form);
      return undefined;
    }
    const length = form === 0x18 ? cursor.uleb() : cursor.u8();
    const at = cursor.pos;
    cursor.skip(length);
    const expression = new Cursor(cursor.bytes, cursor.what, at, at + length);
    const operation = length === 0 ? 0 : expression.u8();
    let address: bigint | undefined;
    if (operation === 0x03) address = expression.u64();
    else if (operation === 0xa1) {
      const slot = context.addrBase + expression.uleb() * 8;
      address = new Cursor(
        this.sections.addr,
        `${this.label}: section .debug_addr`,
        this.#inside(this.sections.addr, slot),
      ).u64();
    }
    return expression.pos === expression.end ? address : undefined;
  }

  #skip(cursor: Cursor, context: UnitContext, form: number): void {
    switch (form) {
      case 0x19:
      case 0x21:
        return;
      case 0x0b:
      case 0x0c:
      case 0x11:
      case 0x25:
      case 0x29:
        return cursor.skip(1);
      case 0x05:
      case 0x12:
      case 0x26:
      case 0x2a:
        return cursor.skip(2);
      case 0x27:
      case 0x2b:
        return cursor.skip(3);
      case 0x06:
      case 0x13:
      case 0x28:
      case 0x2c:
        return cursor.skip(4);
      case 0x01:
      case 0x07:
      case 0x14:
      case 0x20:
        return cursor.skip(8);
      case 0x1e:
        return cursor.skip(16);
      case 0x0e:
      case 0x10:
      case 0x17:
      case 0x1f:
        return cursor.skip(context.offsetSize);
      case 0x0d:
      case 0x0f:
      case 0x15:
      case 0x1a:
      case 0x1b:
      case 0x22:
      case 0x23:
        cursor.uleb();
        return;
      case 0x0a:
        return cursor.skip(cursor.u8());
      case 0x03:
        return cursor.skip(cursor.u16());
      case 0x04:
        return cursor.skip(cursor.u32());
      case 0x09:
      case 0x18:
        return cursor.skip(cursor.uleb());
      case 0x08:
        cursor.cstring();
        return;
      default:
        throw this.#invalid(`form 0x${form.toString(16)} is not supported`, cursor.pos);
    }
  }

  #abbreviationsAt(offset: number): Map<number, Abbreviation> {
    const known = this.#abbreviations.get(offset);
    if (known !== undefined) return known;
    if (offset > this.sections.abbrev.length)
      throw this.#invalid('the abbreviations lie outside their section', offset);
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

  #invalid(what: string, at: number): Error {
    return elfInvalid(what, `${this.label}: DWARF at 0x${at.toString(16)}`);
  }
}

/** Forms whose value is a plain number (DW_FORM_data*, sdata, udata, implicit_const). */
function isConstant(form: number): boolean {
  return (
    form === 0x0b || form === 0x05 || form === 0x06 || form === 0x07 || form === 0x0d || form === 0x0f || form === 0x21
  );
}
