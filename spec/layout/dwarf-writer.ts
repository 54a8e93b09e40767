/** Writes DWARF for tests: a small tree of entries, in version 4 or 5 and with the forms that compilers use. */
import { ByteWriter, type WrittenSection } from './elf-writer.js';

/** How strings and addresses are written. `indexed` needs DWARF 5. */
export interface DwarfStyle {
  readonly version: 4 | 5;
  readonly strings: 'inline' | 'offset' | 'indexed';
  readonly addresses: 'direct' | 'indexed';
}

export type Value =
  | { readonly form: 'data'; readonly value: number }
  | { readonly form: 'signed'; readonly value: number }
  | { readonly form: 'implicit'; readonly value: number }
  | { readonly form: 'ones' }
  | { readonly form: 'string'; readonly value: string }
  | { readonly form: 'ref'; readonly label: string }
  | { readonly form: 'flag' }
  | { readonly form: 'address'; readonly value: bigint };

export interface Node {
  readonly tag: number;
  readonly label?: string;
  readonly attributes: readonly (readonly [number, Value])[];
  readonly children?: readonly Node[];
}

const data = (value: number): Value => ({ form: 'data', value });
const text = (value: string): Value => ({ form: 'string', value });
const ref = (label: string): Value => ({ form: 'ref', label });
const present = (attributes: readonly (readonly [number, Value | undefined])[]): [number, Value][] =>
  attributes.filter((a): a is [number, Value] => a[1] !== undefined);

export const base = (label: string, name: string, size: number, encoding: number): Node => ({
  tag: 0x24,
  label,
  attributes: [
    [0x03, text(name)],
    [0x0b, data(size)],
    [0x3e, data(encoding)],
  ],
});
export const pointer = (label: string, to?: string): Node => ({
  tag: 0x0f,
  label,
  attributes: present([
    [0x0b, data(8)],
    [0x49, to === undefined ? undefined : ref(to)],
  ]),
});
export const typedef = (label: string, name: string, to: string): Node => ({
  tag: 0x16,
  label,
  attributes: [
    [0x03, text(name)],
    [0x49, ref(to)],
  ],
});
export const constant = (label: string, to: string): Node => ({ tag: 0x26, label, attributes: [[0x49, ref(to)]] });
/** Dimensions from the outermost; `undefined` for an open one, 0 for a zero-length one. */
export const array = (label: string, of: string, ...counts: (number | undefined)[]): Node => ({
  tag: 0x01,
  label,
  attributes: [[0x49, ref(of)]],
  children: counts.map((count) => ({
    tag: 0x21,
    attributes: count === undefined ? [] : [[0x2f, count === 0 ? ({ form: 'ones' } as const) : data(count - 1)]],
  })),
});

export interface MemberAt {
  readonly offset?: number;
  readonly bitSize?: number;
  /** DWARF 5: from the start of the struct. */
  readonly dataBitOffset?: number;
  /** DWARF 4: from the most significant bit of a unit of `byteSize`. */
  readonly bitOffset?: number;
  readonly byteSize?: number;
}
export const member = (name: string | undefined, type: string, at: MemberAt): Node => {
  const number = (value: number | undefined): Value | undefined => (value === undefined ? undefined : data(value));
  return {
    tag: 0x0d,
    attributes: present([
      [0x03, name === undefined ? undefined : text(name)],
      [0x49, ref(type)],
      [0x38, number(at.offset)],
      [0x0d, number(at.bitSize)],
      [0x6b, number(at.dataBitOffset)],
      [0x0c, number(at.bitOffset)],
      [0x0b, number(at.byteSize)],
    ]),
  };
};
const aggregate =
  (tag: number) =>
  (label: string, name: string | undefined, size: number, ...children: Node[]): Node => ({
    tag,
    label,
    attributes: present([
      [0x03, name === undefined ? undefined : text(name)],
      [0x0b, data(size)],
    ]),
    children,
  });
export const struct = aggregate(0x13);
export const union = aggregate(0x17);
export const opaque = (label: string, name: string): Node => ({
  tag: 0x13,
  label,
  attributes: [
    [0x03, text(name)],
    [0x3c, { form: 'flag' }],
  ],
});
export const enumeration = (
  label: string,
  name: string | undefined,
  size: number,
  values: Record<string, number>,
): Node => ({
  tag: 0x04,
  label,
  attributes: present([
    [0x03, name === undefined ? undefined : text(name)],
    [0x0b, data(size)],
  ]),
  children: Object.entries(values).map(([key, value]) => ({
    tag: 0x28,
    attributes: [
      [0x03, text(key)],
      [0x1c, value < 0 ? { form: 'signed', value } : data(value)],
    ],
  })),
});
export const variable = (name: string, type: string, address: bigint): Node => ({
  tag: 0x34,
  attributes: [
    [0x03, text(name)],
    [0x49, ref(type)],
    [0x02, { form: 'address', value: address }],
  ],
});
export const declared = (label: string, name: string, type: string): Node => ({
  tag: 0x34,
  label,
  attributes: [
    [0x03, text(name)],
    [0x49, ref(type)],
    [0x3c, { form: 'flag' }],
  ],
});
export const defines = (label: string, address: bigint): Node => ({
  tag: 0x34,
  attributes: [
    [0x47, ref(label)],
    [0x02, { form: 'address', value: address }],
  ],
});
/** A function, which readers of types step over but have to look into. */
export const subprogram = (name: string, ...children: Node[]): Node => ({
  tag: 0x2e,
  attributes: [
    [0x03, text(name)],
    [0x27, { form: 'implicit', value: 1 }],
  ],
  children,
});

export interface WrittenUnit {
  readonly name: string;
  readonly entries: readonly Node[];
}

/** The `.debug_*` sections for these units. */
export function writeDwarf(units: readonly WrittenUnit[], style: DwarfStyle): WrittenSection[] {
  const writer = new DwarfWriter(style);
  for (const unit of units) writer.unit(unit);
  return writer.sections();
}

class DwarfWriter {
  readonly #info = new ByteWriter();
  readonly #abbrev = new ByteWriter();
  readonly #str = new ByteWriter().string('padding');
  readonly #strOffsets = new ByteWriter().u32(0).u16(5).u16(0);
  readonly #addr = new ByteWriter().u32(0).u16(5).u8(8, 0);
  #strCount = 0;
  #addrCount = 0;

  constructor(readonly style: DwarfStyle) {}

  sections(): WrittenSection[] {
    this.#abbrev.u8(0);
    return [
      { name: '.debug_info', bytes: this.#info.done() },
      { name: '.debug_abbrev', bytes: this.#abbrev.done() },
      { name: '.debug_str', bytes: this.#str.done() },
      { name: '.debug_str_offsets', bytes: this.#strOffsets.done() },
      { name: '.debug_addr', bytes: this.#addr.done() },
    ];
  }

  unit(unit: WrittenUnit): void {
    const start = this.#info.length;
    const abbrevAt = this.#abbrev.length;
    this.#info.u32(0).u16(this.style.version);
    if (this.style.version === 5) this.#info.u8(1, 8).u32(abbrevAt);
    else this.#info.u32(abbrevAt).u8(8);
    const labels = new Map<string, number>();
    const patches: { at: number; label: string }[] = [];
    let code = 0;
    const emit = (node: Node): void => {
      if (node.label !== undefined) labels.set(node.label, this.#info.length - start);
      code++;
      this.#info.uleb(code);
      this.#abbrev
        .uleb(code)
        .uleb(node.tag)
        .u8(node.children === undefined ? 0 : 1);
      for (const [attribute, value] of node.attributes) {
        this.#abbrev.uleb(attribute);
        if (value.form === 'ref') patches.push({ at: this.#info.length, label: value.label });
        this.#value(value);
      }
      this.#abbrev.u8(0, 0);
      if (node.children === undefined) return;
      for (const child of node.children) emit(child);
      this.#info.u8(0);
    };
    const bases: [number, Value][] = this.style.strings === 'indexed' ? [[0x72, { form: 'data', value: 8 }]] : [];
    emit({ tag: 0x11, attributes: [[0x03, text(unit.name)], ...bases], children: unit.entries });
    this.#abbrev.u8(0);
    for (const { at, label } of patches) {
      const target = labels.get(label);
      if (target === undefined) throw new Error(`no entry is labelled '${label}'`);
      this.#info.patch32(at, target);
    }
    this.#info.patch32(start, this.#info.length - start - 4);
  }

  #value(value: Value): void {
    const { version, strings, addresses } = this.style;
    switch (value.form) {
      case 'data':
        // 0x17 is sec_offset, which the bases need; readers take any width for the rest.
        this.#abbrev.uleb(value.value < 256 ? 0x0b : 0x06);
        if (value.value < 256) this.#info.u8(value.value);
        else this.#info.u32(value.value);
        return;
      case 'signed':
        this.#abbrev.uleb(0x0d);
        this.#info.sleb(value.value);
        return;
      case 'implicit':
        if (version === 5) this.#abbrev.uleb(0x21).sleb(value.value);
        else {
          this.#abbrev.uleb(0x0f);
          this.#info.uleb(value.value);
        }
        return;
      case 'ones':
        this.#abbrev.uleb(0x07);
        this.#info.u64(-1n);
        return;
      case 'ref':
        this.#abbrev.uleb(0x13);
        this.#info.u32(0);
        return;
      case 'flag':
        this.#abbrev.uleb(0x19);
        return;
      case 'string':
        if (strings === 'inline') {
          this.#abbrev.uleb(0x08);
          this.#info.string(value.value);
        } else if (strings === 'offset') {
          this.#abbrev.uleb(0x0e);
          this.#info.u32(this.#str.length);
          this.#str.string(value.value);
        } else {
          this.#abbrev.uleb(0x26);
          this.#info.u16(this.#strCount++);
          this.#strOffsets.u32(this.#str.length);
          this.#str.string(value.value);
        }
        return;
      case 'address':
        this.#abbrev.uleb(0x18);
        if (addresses === 'direct') this.#info.uleb(9).u8(0x03).u64(value.value);
        else {
          this.#info
            .uleb(2)
            .u8(0xa1)
            .uleb(this.#addrCount++);
          this.#addr.u64(value.value);
        }
    }
  }
}
