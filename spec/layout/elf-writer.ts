/** Writes small ELF64 files for tests, so that no binary has to be kept in the repository. */

export interface WrittenSection {
  readonly name: string;
  readonly address?: bigint;
  readonly bytes?: Uint8Array;
  /** For a section without bytes (`.bss`). */
  readonly size?: number;
  readonly executable?: boolean;
}

export interface WrittenSymbol {
  readonly name: string;
  readonly address: bigint;
  readonly size?: number;
  readonly kind?: 'function' | 'object' | 'label';
  readonly global?: boolean;
  /** Source file of a static symbol. */
  readonly file?: string;
}

export interface WrittenElf {
  readonly sections: readonly WrittenSection[];
  readonly symbols?: readonly WrittenSymbol[];
  /** Hexadecimal. */
  readonly buildId?: string;
}

/** Collects little-endian values. */
export class ByteWriter {
  readonly #bytes: number[] = [];
  get length(): number {
    return this.#bytes.length;
  }
  u8(...values: number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff);
    return this;
  }
  u16(value: number): this {
    return this.u8(value, value >> 8);
  }
  u32(value: number): this {
    return this.u8(value, value >> 8, value >> 16, value >> 24);
  }
  u64(value: bigint | number): this {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (let i = 0; i < 8; i++, rest >>= 8n) this.u8(Number(rest & 0xffn));
    return this;
  }
  uleb(value: number): this {
    let rest = value;
    do {
      const byte = rest % 128;
      rest = Math.floor(rest / 128);
      this.u8(rest > 0 ? byte | 0x80 : byte);
    } while (rest > 0);
    return this;
  }
  sleb(value: number): this {
    let rest = value;
    for (;;) {
      const byte = rest & 0x7f;
      rest >>= 7;
      const done = (rest === 0 && (byte & 0x40) === 0) || (rest === -1 && (byte & 0x40) !== 0);
      this.u8(done ? byte : byte | 0x80);
      if (done) return this;
    }
  }
  string(text: string): this {
    return this.raw(Buffer.from(`${text}\0`, 'latin1'));
  }
  raw(bytes: Uint8Array): this {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }
  patch32(at: number, value: number): void {
    for (let i = 0; i < 4; i++) this.#bytes[at + i] = (value >>> (8 * i)) & 0xff;
  }
  done(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

interface Header {
  name: string;
  type: number;
  flags: number;
  address: bigint;
  bytes: Uint8Array;
  size: number;
  link: number;
  entry: number;
}

const NOBITS = 8;

/** The file's bytes. The section headers come last, so every shorter prefix is incomplete. */
export function writeElf(elf: WrittenElf): Uint8Array {
  const headers: Header[] = [
    { name: '', type: 0, flags: 0, address: 0n, bytes: new Uint8Array(0), size: 0, link: 0, entry: 0 },
  ];
  for (const s of elf.sections)
    headers.push({
      name: s.name,
      type: s.bytes === undefined ? NOBITS : 1,
      flags: s.address === undefined ? 0 : s.executable === true ? 6 : 2,
      address: s.address ?? 0n,
      bytes: s.bytes ?? new Uint8Array(0),
      size: s.bytes?.length ?? s.size ?? 0,
      link: 0,
      entry: 0,
    });
  if (elf.buildId !== undefined) {
    const id = Buffer.from(elf.buildId, 'hex');
    const note = new ByteWriter().u32(4).u32(id.length).u32(3).string('GNU').raw(id).done();
    headers.push({
      name: '.note.gnu.build-id',
      type: 7,
      flags: 0,
      address: 0n,
      bytes: note,
      size: note.length,
      link: 0,
      entry: 0,
    });
  }
  const names = new ByteWriter().u8(0);
  const table = new ByteWriter().u64(0).u64(0).u64(0);
  const sectionOf = (address: bigint): number =>
    Math.max(
      1,
      headers.findIndex((h) => (h.flags & 2) !== 0 && address >= h.address && address <= h.address + BigInt(h.size)),
    );
  const emit = (name: string, info: number, section: number, address: bigint, size: number): void => {
    const at = name === '' ? 0 : names.length;
    if (name !== '') names.string(name);
    table.u32(at).u8(info, 0).u16(section).u64(address).u64(size);
  };
  let file: string | undefined;
  for (const s of elf.symbols ?? []) {
    if (s.global !== true && s.file !== file) {
      file = s.file;
      emit(file ?? '', 4, 0xfff1, 0n, 0);
    }
    const kind = { label: 0, object: 1, function: 2 }[s.kind ?? 'function'];
    emit(s.name, kind | (s.global === true ? 16 : 0), sectionOf(s.address), s.address, s.size ?? 0);
  }
  if (elf.symbols !== undefined) {
    const symbols = table.done();
    const strings = names.done();
    headers.push({
      name: '.symtab',
      type: 2,
      flags: 0,
      address: 0n,
      bytes: symbols,
      size: symbols.length,
      link: headers.length + 1,
      entry: 24,
    });
    headers.push({
      name: '.strtab',
      type: 3,
      flags: 0,
      address: 0n,
      bytes: strings,
      size: strings.length,
      link: 0,
      entry: 0,
    });
  }
  const sectionNames = new ByteWriter();
  const nameAt = [...headers.map((h) => h.name), '.shstrtab'].map((name) => {
    const at = sectionNames.length;
    sectionNames.string(name);
    return at;
  });
  const bytes = sectionNames.done();
  headers.push({ name: '.shstrtab', type: 3, flags: 0, address: 0n, bytes, size: bytes.length, link: 0, entry: 0 });

  const loads = headers.filter((h) => (h.flags & 2) !== 0 && h.type === 1);
  let offset = 64 + loads.length * 56;
  const offsets = headers.map((h) => {
    const at = offset;
    offset += h.bytes.length;
    return at;
  });
  const out = new ByteWriter().u8(0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0).u64(0);
  out.u16(2).u16(62).u32(1).u64(0).u64(64).u64(offset).u32(0).u16(64).u16(56).u16(loads.length).u16(64);
  out.u16(headers.length).u16(headers.length - 1);
  for (const h of loads)
    out.u32(1).u32(7).u64(offsets[headers.indexOf(h)]!).u64(h.address).u64(h.address).u64(h.size).u64(h.size).u64(4096);
  for (const h of headers) out.raw(h.bytes);
  headers.forEach((h, i) => {
    out.u32(nameAt[i]!).u32(h.type).u64(h.flags).u64(h.address).u64(offsets[i]!).u64(h.size);
    out.u32(h.link).u32(0).u64(1).u64(h.entry);
  });
  return out.done();
}
