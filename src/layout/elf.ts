/**
 * ELF64 little-endian files such as `xen-syms`: sections, symbols (static ones too), build-id, and the bytes that the
 * image holds at a virtual address. Layout after the System V ABI, x86-64 supplement. Reads one whole file; pure.
 */
import { readFileSync } from 'node:fs';
import { NinelivesError } from '../common/errors.js';
import { Cursor, elfInvalid, latin1 } from './bytes.js';
import { type ElfSymbol, SymbolTable } from './symbols.js';

export interface Section {
  readonly name: string;
  /** ELF section type (1: program bits, 8: no bits, ...). */
  readonly type: number;
  readonly address: bigint;
  /** Offset in the file, bytes. */
  readonly offset: number;
  /** Bytes; of a `nobits` section the bytes it takes in memory. */
  readonly size: number;
  readonly link: number;
  readonly flags: number;
  readonly entrySize: number;
}

interface Segment {
  readonly type: number;
  readonly address: bigint;
  readonly offset: number;
  readonly fileSize: number;
}

const SHT_NOTE = 7;
const SHT_NOBITS = 8;
const SHT_SYMTAB = 2;
const SHF_ALLOC = 2;
const SHF_EXECINSTR = 4;
const SHN_XINDEX = 0xffff;
const SHN_LORESERVE = 0xff00;
const PT_LOAD = 1;
const NT_GNU_BUILD_ID = 3;
const EM_X86_64 = 62;

/** Whether the section takes up memory at run time. */
export const isAllocated = (section: Section): boolean => (section.flags & SHF_ALLOC) !== 0;
/** Whether the section holds code. */
export const isExecutable = (section: Section): boolean => (section.flags & SHF_EXECINSTR) !== 0;

export class ElfFile {
  readonly sections: readonly Section[];
  readonly #segments: readonly Segment[];
  #symbols: SymbolTable | undefined;

  /**
   * @param bytes the whole file; kept, not copied
   * @param label how to call the file in errors
   * @throws NL_ELF_INVALID when the headers are truncated, damaged or of an unsupported kind
   */
  constructor(
    readonly bytes: Uint8Array,
    readonly label = 'the ELF file',
  ) {
    const header = new Cursor(bytes, `${label}: file header`);
    if (header.u32() !== 0x464c457f) throw elfInvalid('not an ELF file', `${label}: wrong magic bytes at 0x0`);
    const [fileClass, encoding, version] = [header.u8(), header.u8(), header.u8()];
    if (fileClass !== 2) throw elfInvalid('not a 64-bit ELF file', `${label}: class ${fileClass} at 0x4`);
    if (encoding !== 1) throw elfInvalid('not a little-endian ELF file', `${label}: data encoding ${encoding} at 0x5`);
    if (version !== 1) throw elfInvalid('unknown ELF version', `${label}: version ${version} at 0x6`);
    header.pos = 18;
    const machine = header.u16();
    if (machine !== EM_X86_64) throw elfInvalid('not an x86-64 ELF file', `${label}: machine ${machine} at 0x12`);
    header.pos = 32;
    const programHeaders = header.size64();
    const sectionHeaders = header.size64();
    header.skip(6);
    const programHeaderSize = header.u16();
    const programHeaderCount = header.u16();
    const sectionHeaderSize = header.u16();
    const sectionCount = header.u16();
    const namesIndex = header.u16();
    if (sectionHeaders === 0 || sectionCount === 0)
      throw elfInvalid('the file has no section headers, so no symbols', `${label}: file header`);
    if (namesIndex >= sectionCount)
      throw elfInvalid('the section name table does not exist', `${label}: section ${namesIndex} of ${sectionCount}`);
    this.#segments = this.#readSegments(programHeaders, programHeaderSize, programHeaderCount);
    this.sections = this.#readSections(sectionHeaders, sectionHeaderSize, sectionCount, namesIndex);
  }

  /** @throws NL_USAGE when the file cannot be read, NL_ELF_INVALID when it is no usable ELF file */
  static read(path: string): ElfFile {
    let bytes: Uint8Array;
    try {
      bytes = readFileSync(path);
    } catch (cause) {
      throw new NinelivesError('NL_USAGE', `cannot read ${path}`, {
        fix: 'Check the path and its permissions.',
        cause,
      });
    }
    return new ElfFile(bytes, path);
  }

  section(name: string): Section | undefined {
    return this.sections.find((s) => s.name === name);
  }

  /** The bytes of a section; empty for one that takes no room in the file. */
  sectionBytes(section: Section): Uint8Array {
    if (section.type === SHT_NOBITS) return new Uint8Array(0);
    return this.bytes.subarray(section.offset, section.offset + section.size);
  }

  /** The GNU build-id in lower-case hexadecimal, or `undefined` where there is none. */
  get buildId(): string | undefined {
    for (const section of this.sections) {
      if (section.type !== SHT_NOTE) continue;
      const cursor = new Cursor(this.sectionBytes(section), `${this.label}: section ${section.name}`);
      while (cursor.end - cursor.pos >= 12) {
        const nameSize = cursor.u32();
        const dataSize = cursor.u32();
        const type = cursor.u32();
        const nameAt = cursor.pos;
        cursor.skip(Math.ceil(nameSize / 4) * 4);
        const dataAt = cursor.pos;
        cursor.skip(dataSize);
        if (type === NT_GNU_BUILD_ID && latin1(cursor.bytes, nameAt, nameAt + nameSize) === 'GNU\0')
          return Buffer.from(cursor.bytes.subarray(dataAt, dataAt + dataSize)).toString('hex');
        cursor.pos = Math.min(cursor.end, dataAt + Math.ceil(dataSize / 4) * 4);
      }
    }
    return undefined;
  }

  /**
   * The image's bytes at a virtual address, as the boot loader loads them: pristine text and read-only data.
   * `undefined` unless the whole range lies in the file (so not for zero-initialised data).
   */
  bytesAt(va: bigint, length: number): Uint8Array | undefined {
    for (const segment of this.#segments) {
      if (segment.type !== PT_LOAD || va < segment.address) continue;
      const offset = va - segment.address;
      if (offset + BigInt(length) <= BigInt(segment.fileSize)) {
        const at = segment.offset + Number(offset);
        return this.bytes.subarray(at, at + length);
      }
    }
    return undefined;
  }

  /** All symbols with an address, static ones too. Read on first use. @throws NL_ELF_INVALID */
  get symbols(): SymbolTable {
    this.#symbols ??= this.#readSymbols();
    return this.#symbols;
  }

  #readSegments(offset: number, entrySize: number, count: number): Segment[] {
    if (count > 0 && entrySize < 56)
      throw elfInvalid('program headers are too small', `${this.label}: ${entrySize} bytes`);
    const segments: Segment[] = [];
    for (let i = 0; i < count; i++) {
      const cursor = this.#cursorAt(`program header ${i}`, offset + i * entrySize);
      const type = cursor.u32();
      cursor.skip(4);
      const fileOffset = cursor.size64();
      const address = cursor.u64();
      cursor.skip(8);
      const fileSize = cursor.size64();
      if (type === PT_LOAD && fileOffset + fileSize > this.bytes.length)
        throw elfInvalid('the file ends too early', `${this.label}: segment ${i} needs ${fileOffset + fileSize} bytes`);
      segments.push({ type, address, offset: fileOffset, fileSize });
    }
    return segments;
  }

  #readSections(offset: number, entrySize: number, count: number, namesIndex: number): Section[] {
    if (entrySize < 64) throw elfInvalid('section headers are too small', `${this.label}: ${entrySize} bytes`);
    const raw: (Omit<Section, 'name'> & { nameAt: number })[] = [];
    for (let i = 0; i < count; i++) {
      const cursor = this.#cursorAt(`section header ${i}`, offset + i * entrySize);
      const nameAt = cursor.u32();
      const type = cursor.u32();
      const flags = Number(cursor.u64() & 0xffffffffn);
      const address = cursor.u64();
      const fileOffset = cursor.size64();
      const size = cursor.size64();
      const link = cursor.u32();
      cursor.skip(12);
      const entry = cursor.size64();
      if (type !== SHT_NOBITS && type !== 0 && fileOffset + size > this.bytes.length)
        throw elfInvalid('the file ends too early', `${this.label}: section ${i} needs ${fileOffset + size} bytes`);
      raw.push({ nameAt, type, flags, address, offset: fileOffset, size, link, entrySize: entry });
    }
    const table = raw[namesIndex];
    if (table === undefined || table.type === SHT_NOBITS)
      throw elfInvalid('the section name table does not exist', `${this.label}: section ${namesIndex}`);
    const names = this.bytes.subarray(table.offset, table.offset + table.size);
    return raw.map(({ nameAt, ...section }, i) => {
      const cursor = new Cursor(names, `${this.label}: name of section ${i}`, Math.min(nameAt, names.length));
      return { name: i === 0 ? '' : cursor.cstring(), ...section };
    });
  }

  #readSymbols(): SymbolTable {
    const table = this.sections.find((s) => s.type === SHT_SYMTAB);
    if (table === undefined)
      throw elfInvalid('the file is stripped: it has no symbol table', `${this.label}: no section .symtab`);
    const strings = this.sections[table.link];
    if (strings === undefined || strings.type === SHT_NOBITS)
      throw elfInvalid('the symbol names are missing', `${this.label}: section ${table.link}`);
    const names = this.sectionBytes(strings);
    const cursor = new Cursor(this.sectionBytes(table), `${this.label}: section ${table.name}`);
    const symbols: ElfSymbol[] = [];
    let file: string | undefined;
    for (let i = 0; cursor.end - cursor.pos >= 24; i++) {
      const nameAt = cursor.u32();
      const info = cursor.u8();
      cursor.skip(1);
      const section = cursor.u16();
      const address = cursor.u64();
      const size = Number(cursor.u64());
      const type = info & 15;
      if (type === 4 || nameAt !== 0) {
        const name = new Cursor(names, `${this.label}: name of symbol ${i}`, Math.min(nameAt, names.length)).cstring();
        if (type === 4) file = name === '' ? undefined : name;
        // Undefined (0) and absolute (0xfff1) entries name no place in the image.
        else if (section !== 0 && (section < SHN_LORESERVE || section === SHN_XINDEX) && type <= 2 && name !== '') {
          const global = info >> 4 !== 0;
          const kind = type === 2 ? 'function' : type === 1 ? 'object' : 'label';
          symbols.push({ name, address, size, kind, global, ...(global || file === undefined ? {} : { file }) });
        }
      }
    }
    return new SymbolTable(
      symbols,
      this.sections.filter(isAllocated).map((s) => ({ ...s, end: s.address + BigInt(s.size) })),
    );
  }

  #cursorAt(what: string, offset: number): Cursor {
    if (offset > this.bytes.length)
      throw elfInvalid('the file ends too early', `${this.label}: ${what} at 0x${offset.toString(16)}`);
    return new Cursor(this.bytes, `${this.label}: ${what}`, offset);
  }
}
