/**
 * DWARF attribute forms: how a value of each form is read or stepped over, and the sections that forms point into.
 * Numbers after the DWARF 5 standard, section 7.5.6.
 */
import { inflateSync } from 'node:zlib';
import type { NinelivesError } from '../common/errors.js';
import { Cursor, elfInvalid } from './bytes.js';
import type { ElfFile } from './elf.js';

export interface Sections {
  readonly info: Uint8Array;
  readonly abbrev: Uint8Array;
  readonly str: Uint8Array;
  readonly lineStr: Uint8Array;
  readonly strOffsets: Uint8Array;
  readonly addr: Uint8Array;
}

/** What the header of a unit says about how to read it. */
export interface UnitContext {
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

/** The sections that types are read from; those that the file lacks are empty. */
export function debugSections(elf: ElfFile): Sections {
  return {
    info: debugSection(elf, '.debug_info'),
    abbrev: debugSection(elf, '.debug_abbrev'),
    str: debugSection(elf, '.debug_str'),
    lineStr: debugSection(elf, '.debug_line_str'),
    strOffsets: debugSection(elf, '.debug_str_offsets'),
    addr: debugSection(elf, '.debug_addr'),
  };
}

/** Forms whose value is a plain number (DW_FORM_data*, sdata, udata, implicit_const). */
export function isConstant(form: number): boolean {
  return (
    form === 0x0b || form === 0x05 || form === 0x06 || form === 0x07 || form === 0x0d || form === 0x0f || form === 0x21
  );
}

export class FormReader {
  readonly #strings = new Map<number, string>();

  constructor(
    readonly sections: Sections,
    readonly label: string,
  ) {}

  number(cursor: Cursor, context: UnitContext, form: number, implicit: number): number {
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
        throw this.invalid(`form 0x${form.toString(16)} is no number`, cursor.pos);
    }
  }

  reference(cursor: Cursor, context: UnitContext, form: number): number {
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
        throw this.invalid(`form 0x${form.toString(16)} is no supported reference`, cursor.pos);
    }
  }

  string(cursor: Cursor, context: UnitContext, form: number): string {
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
        throw this.invalid(`form 0x${form.toString(16)} is no supported string`, cursor.pos);
    }
  }

  #inside(bytes: Uint8Array, offset: number): number {
    if (offset >= bytes.length) throw this.invalid(`a string lies outside its section`, offset);
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
  location(cursor: Cursor, context: UnitContext, form: number): bigint | undefined {
    if (form !== 0x18 && form !== 0x0a) {
      this.skip(cursor, context, form);
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

  skip(cursor: Cursor, context: UnitContext, form: number): void {
    switch (form) {
      case 0x19:
      case 0x21:
        return;
      case 0x0b:
      case 0x0c:
      case 0x11:
      case 0x25:
      case 0x29:
        cursor.skip(1);
        return;
      case 0x05:
      case 0x12:
      case 0x26:
      case 0x2a:
        cursor.skip(2);
        return;
      case 0x27:
      case 0x2b:
        cursor.skip(3);
        return;
      case 0x06:
      case 0x13:
      case 0x28:
      case 0x2c:
        cursor.skip(4);
        return;
      case 0x01:
      case 0x07:
      case 0x14:
      case 0x20:
        cursor.skip(8);
        return;
      case 0x1e:
        cursor.skip(16);
        return;
      case 0x0e:
      case 0x10:
      case 0x17:
      case 0x1f:
        cursor.skip(context.offsetSize);
        return;
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
        cursor.skip(cursor.u8());
        return;
      case 0x03:
        cursor.skip(cursor.u16());
        return;
      case 0x04:
        cursor.skip(cursor.u32());
        return;
      case 0x09:
      case 0x18:
        cursor.skip(cursor.uleb());
        return;
      case 0x08:
        cursor.cstring();
        return;
      default:
        throw this.invalid(`form 0x${form.toString(16)} is not supported`, cursor.pos);
    }
  }

  /** The error for something in .debug_info that cannot be read. */
  invalid(what: string, at: number): NinelivesError {
    return elfInvalid(what, `${this.label}: DWARF at 0x${at.toString(16)}`);
  }
}
