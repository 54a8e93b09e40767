/**
 * Struct layouts, variables and enum constants collected from DWARF, merged over compile units. Every unit repeats the
 * headers it includes, so equal definitions count once; definitions of one name that differ are kept by unit.
 */
import type { Die, Unit } from './dwarf.js';
import { TAG } from './dwarf.js';
import { formatMember, type MemberText } from './types.js';

export interface LayoutText {
  readonly kind: 'struct' | 'union';
  /** Bytes. */
  readonly size: number;
  /** Member name to `formatMember` text; members of anonymous structs and unions stand with their parent's. */
  readonly members: Readonly<Record<string, string>>;
}

export interface VariableText {
  readonly name: string;
  /** Where the file with the DWARF has it; `undefined` for one that is only declared (defined in assembly). */
  readonly address: bigint | undefined;
  readonly type: string;
  readonly unit: string;
}

export interface Layouts {
  /** By name; `name@unit` where units disagree about a name. */
  readonly structs: ReadonlyMap<string, LayoutText>;
  /** Typedef names of structs and unions that have a name of their own. */
  readonly aliases: ReadonlyMap<string, string>;
  /** Enum name to its constants. An anonymous enum goes by its first constant. */
  readonly enums: ReadonlyMap<string, Readonly<Record<string, number>>>;
  readonly variables: readonly VariableText[];
}

interface Variant {
  readonly layout: LayoutText;
  readonly units: string[];
}

/** Merges the units of one file. */
export function collectLayouts(units: Iterable<Unit>): Layouts {
  const collector = new Collector();
  for (const unit of units) new UnitWalk(unit, collector).run();
  return collector.finish();
}

class Collector {
  readonly variants = new Map<string, Map<string, Variant>>();
  readonly aliases = new Map<string, string>();
  readonly enums = new Map<string, Record<string, number>>();
  readonly variables: VariableText[] = [];

  struct(name: string, unit: string, kind: 'struct' | 'union', size: number, members: [string, string][]): void {
    const key = `${kind} ${size};${members.join(';')}`;
    let variants = this.variants.get(name);
    if (variants === undefined) {
      variants = new Map();
      this.variants.set(name, variants);
    }
    const same = variants.get(key);
    if (same === undefined)
      variants.set(key, { layout: { kind, size, members: Object.fromEntries(members) }, units: [unit] });
    else if (same.units.at(-1) !== unit) same.units.push(unit);
  }

  finish(): Layouts {
    const structs = new Map<string, LayoutText>();
    /** unit -> bare name -> the name that this unit's definition got. */
    const renamed = new Map<string, Map<string, string>>();
    for (const [name, variants] of this.variants) {
      const ranked = [...variants.values()].sort((a, b) => b.units.length - a.units.length);
      ranked.forEach((variant, i) => {
        // What most units agree on keeps the bare name; nobody has it when all of them stand alone.
        const shared = i === 0 && (ranked.length === 1 || variant.units.length > ranked[1]!.units.length);
        const key = shared ? name : `${name}@${variant.units[0]!}`;
        structs.set(key, variant.layout);
        if (shared) return;
        for (const unit of variant.units) {
          let names = renamed.get(unit);
          if (names === undefined) {
            names = new Map();
            renamed.set(unit, names);
          }
          names.set(name, key);
        }
      });
    }
    const rename = (type: string, unit: string): string => {
      const names = renamed.get(unit);
      if (names === undefined) return type;
      const space = type.lastIndexOf(' ');
      const other = space < 0 ? undefined : names.get(type.slice(space + 1));
      return other === undefined ? type : type.slice(0, space + 1) + other;
    };
    for (const variants of this.variants.values())
      for (const { layout, units } of variants.values()) {
        if (units.length !== 1) continue;
        const members = layout.members as Record<string, string>;
        for (const name in members) members[name] = rename(members[name]!, units[0]!);
      }
    const variables = this.variables.map((v) => ({ ...v, type: rename(v.type, v.unit) }));
    return { structs, aliases: this.aliases, enums: this.enums, variables };
  }
}

class UnitWalk {
  readonly #types = new Map<number, string>();
  readonly #names = new Map<number, string>();
  readonly #defined = new Set<number>();
  /** Structs that got a name while another was defined. */
  readonly #pending: Die[] = [];
  readonly #unit: string;

  constructor(
    readonly unit: Unit,
    readonly into: Collector,
  ) {
    this.#unit = unit.name.replace(/^\.\//, '');
  }

  run(): void {
    const { dies } = this.unit;
    for (const die of dies.values()) {
      if (die.tag !== TAG.typedef || die.name === undefined || die.type === undefined) continue;
      const target = dies.get(die.type);
      if (
        target === undefined ||
        (target.tag !== TAG.structure && target.tag !== TAG.union && target.tag !== TAG.enumeration)
      )
        continue;
      if (target.name === undefined && !this.#names.has(target.offset)) this.#names.set(target.offset, die.name);
      else if (target.tag !== TAG.enumeration) {
        const name = target.name ?? this.#names.get(target.offset)!;
        if (name !== die.name) this.into.aliases.set(die.name, name);
      }
    }
    for (const die of dies.values()) if (die.tag === TAG.variable) this.#variable(die);
    for (const die of dies.values()) {
      if ((die.tag === TAG.structure || die.tag === TAG.union) && this.#nameOf(die) !== undefined) this.#define(die);
      else if (die.tag === TAG.enumeration) this.#enumeration(die);
    }
    // Defining one may name another that stands before it.
    for (let die = this.#pending.pop(); die !== undefined; die = this.#pending.pop()) this.#define(die);
  }

  #nameOf(die: Die): string | undefined {
    return die.name ?? this.#names.get(die.offset);
  }

  #variable(die: Die): void {
    const origin = die.origin === undefined ? undefined : this.unit.dies.get(die.origin);
    const name = die.name ?? origin?.name;
    const type = die.type ?? origin?.type;
    if (name === undefined || type === undefined) return;
    if (die.address === undefined && die.declaration !== true) return;
    this.#baptise(type, name);
    const text = this.#type(type);
    this.into.variables.push({ name, address: die.address, type: text, unit: this.#unit });
  }

  /** An unnamed struct is called after the first thing that holds it: `parent.member`, or a variable. */
  #baptise(type: number | undefined, name: string): void {
    for (let i = 0, die = this.#at(type); die !== undefined && i < DEEPEST; i++) {
      if (die.tag === TAG.structure || die.tag === TAG.union) {
        if (this.#nameOf(die) !== undefined) return;
        this.#names.set(die.offset, name);
        this.#pending.push(die);
        return;
      }
      if (die.type === undefined) return;
      die = this.#at(die.type);
    }
  }

  #define(die: Die): void {
    if (die.declaration === true || die.byteSize === undefined || this.#defined.has(die.offset)) return;
    this.#defined.add(die.offset);
    const name = this.#nameOf(die)!;
    const members: [string, string][] = [];
    this.#flatten(die, name, 0, members);
    this.into.struct(name, this.#unit, die.tag === TAG.union ? 'union' : 'struct', die.byteSize, members);
  }

  #flatten(die: Die, owner: string, base: number, members: [string, string][], depth = 0): void {
    if (depth > DEEPEST) return;
    for (const child of die.children) {
      if (child.tag !== TAG.member || child.type === undefined) continue;
      if (child.name === undefined) {
        const inner = this.#strip(child.type);
        if (inner !== undefined && (inner.tag === TAG.structure || inner.tag === TAG.union))
          this.#flatten(inner, owner, base + (child.memberOffset ?? 0), members, depth + 1);
        continue;
      }
      this.#baptise(child.type, `${owner}.${child.name}`);
      members.push([child.name, formatMember(this.#member(child, base))]);
    }
  }

  #member(die: Die, base: number): MemberText {
    const type = this.#type(die.type!);
    const offset = base + (die.memberOffset ?? 0);
    if (die.bitSize === undefined) return { offset, type };
    const unitSize = die.byteSize ?? this.#sizeOf(die.type!) ?? 1;
    const firstBit =
      die.dataBitOffset !== undefined
        ? base * 8 + die.dataBitOffset
        : // DWARF 4 counts from the most significant bit of the storage unit.
          offset * 8 + unitSize * 8 - (die.bitOffset ?? 0) - die.bitSize;
    let at = Math.floor(firstBit / (unitSize * 8)) * unitSize;
    // A packed struct may let a bit field cross its type's storage units: then count from the byte it begins in.
    if (firstBit + die.bitSize > (at + unitSize) * 8) at = Math.floor(firstBit / 8);
    return { offset: at, type, bit: { offset: firstBit - at * 8, width: die.bitSize } };
  }

  #enumeration(die: Die): void {
    const values: Record<string, number> = {};
    for (const child of die.children)
      if (child.tag === TAG.enumerator && child.name !== undefined) values[child.name] = child.constant ?? 0;
    const name = this.#enumName(die);
    const known = this.into.enums.get(name);
    if (known === undefined) this.into.enums.set(name, values);
    else if (JSON.stringify(known) !== JSON.stringify(values)) this.into.enums.set(`${name}@${this.#unit}`, values);
  }

  #enumName(die: Die): string {
    return this.#nameOf(die) ?? die.children.find((c) => c.name !== undefined)?.name ?? 'enum';
  }

  #strip(offset: number): Die | undefined {
    let die = this.#at(offset);
    for (let i = 0; die !== undefined && QUALIFIERS.has(die.tag) && i < DEEPEST; i++) die = this.#at(die.type);
    return die;
  }

  #at(offset: number | undefined): Die | undefined {
    return offset === undefined ? undefined : this.unit.dies.get(offset);
  }

  #sizeOf(offset: number): number | undefined {
    return this.#strip(offset)?.byteSize;
  }

  #type(offset: number): string {
    const known = this.#types.get(offset);
    if (known !== undefined) return known;
    // A damaged file may describe a type by itself.
    this.#types.set(offset, 'void');
    const text = this.#describe(this.unit.dies.get(offset));
    this.#types.set(offset, text);
    return text;
  }

  #describe(die: Die | undefined): string {
    const inner = (): string => (die?.type === undefined ? 'void' : this.#type(die.type));
    switch (die?.tag) {
      case TAG.base:
        return baseName(die);
      case TAG.pointer:
      case TAG.reference:
        return `*${inner()}`;
      case TAG.structure:
        return `struct ${this.#nameOf(die) ?? '?'}`;
      case TAG.union:
        return `union ${this.#nameOf(die) ?? '?'}`;
      case TAG.enumeration: {
        const base = inner();
        return `enum:${base === 'void' ? `u${(die.byteSize ?? 4) * 8}` : base} ${this.#enumName(die)}`;
      }
      case TAG.array: {
        const counts = die.children
          .filter((c) => c.tag === TAG.subrange)
          .map((c) => {
            const count = c.count ?? (c.upperBound === undefined ? undefined : c.upperBound + 1);
            return count === undefined ? '[]' : `[${count}]`;
          });
        return `${counts.join('')}${inner()}`;
      }
      case TAG.subroutine:
        return 'fn';
      case undefined:
        return 'void';
      default:
        return QUALIFIERS.has(die!.tag) ? inner() : 'void';
    }
  }
}

/** Deeper than any C type is nested; ends the walk through a damaged file whose types refer to themselves. */
const DEEPEST = 32;

const QUALIFIERS = new Set<number>([TAG.typedef, TAG.const, TAG.volatile, TAG.restrict, TAG.atomic]);

function baseName(die: Die): string {
  const bits = (die.byteSize ?? 0) * 8;
  switch (die.encoding) {
    case 0x02:
      return 'bool';
    case 0x04:
      return `f${bits}`;
    case 0x06:
      return die.name === 'char' ? 'char' : `s${bits}`;
    case 0x05:
      return `s${bits}`;
    default:
      return `u${bits}`;
  }
}
