/** Where the members of one struct or union are. Lookups by path are cached: recovery asks for the same ones often. */
import { NinelivesError } from '../common/errors.js';
import type { Profile } from './profile.js';
import { parseMember, parseType, type TypeRef } from './types.js';

/** A place inside a struct. */
export interface Field {
  /** Bytes from the start of the outermost struct. */
  readonly offset: number;
  /** Bytes; of a bit field those of its storage unit. */
  readonly size: number;
  readonly type: TypeRef;
  /** For a bit field: its lowest bit in the little-endian storage unit, and how many bits it has. */
  readonly bit?: { readonly offset: number; readonly width: number };
}

const AGGREGATE = / (struct |union |\[)/;

export class StructLayout {
  readonly #fields = new Map<string, Field>();
  readonly #members: Readonly<Record<string, string>>;

  /** @param members member name to the profile file's text (see `types.ts`) */
  constructor(
    readonly profile: Profile,
    readonly name: string,
    /** Bytes. */
    readonly size: number,
    members: Readonly<Record<string, string>>,
  ) {
    this.#members = members;
  }

  /** Direct members in the order of the source, those of anonymous structs and unions among them. */
  get memberNames(): string[] {
    return Object.keys(this.#members);
  }

  /**
   * Direct members with their places, in the order of the source.
   * @param which `aggregates`: only those that are structs, unions or arrays (much the fewer, so quicker)
   */
  *members(which: 'all' | 'aggregates' = 'all'): Generator<Omit<Field, 'size'> & { readonly name: string }> {
    for (const name in this.#members) {
      const text = this.#members[name]!;
      if (which === 'aggregates' && !AGGREGATE.test(text)) continue;
      const { type, ...place } = parseMember(text);
      yield { name, ...place, type: parseType(type) };
    }
  }

  /** Whether `path` leads somewhere. */
  hasField(path: string): boolean {
    return this.#find(path) !== undefined;
  }

  /**
   * A member by its path: `lock`, `arch.pv.trap_bounce.flags`, `a[2].b`. Members of anonymous structs and unions are
   * named as in C, without the anonymous level. Pointers are not followed.
   * @throws NL_PROFILE_MISMATCH when there is none
   */
  field(path: string): Field {
    const field = this.#find(path);
    if (field === undefined)
      throw new NinelivesError(
        'NL_PROFILE_MISMATCH',
        `'struct ${this.name}' of Xen ${this.profile.version} has no member '${path}'`,
        { fix: 'Check that this version of Xen is supported; see docs/design/profiles.md.' },
      );
    return field;
  }

  #find(path: string): Field | undefined {
    const known = this.#fields.get(path);
    if (known !== undefined) return known;
    const field = this.#walk(path);
    if (field !== undefined) this.#fields.set(path, field);
    return field;
  }

  #walk(path: string): Field | undefined {
    const end = path.search(/[.[]/);
    const name = end < 0 ? path : path.slice(0, end);
    const text = Object.hasOwn(this.#members, name) ? this.#members[name] : undefined;
    if (text === undefined) return undefined;
    const member = parseMember(text);
    let offset = member.offset;
    let type = parseType(member.type);
    let rest = end < 0 ? '' : path.slice(end);
    while (rest.startsWith('[')) {
      const index = /^\[(\d+)\]/.exec(rest);
      if (index === null || type.kind !== 'array') return undefined;
      const i = Number(index[1]);
      if (type.count !== undefined && i >= type.count) return undefined;
      offset += i * this.profile.sizeOf(type.of);
      type = type.of;
      rest = rest.slice(index[0].length);
    }
    if (rest.startsWith('.')) {
      if (type.kind !== 'struct' && type.kind !== 'union') return undefined;
      const inner = this.profile.struct(type.name).#find(rest.slice(1));
      return inner && { ...inner, offset: offset + inner.offset };
    }
    if (rest !== '') return undefined;
    // Opaque structs (declared, never defined) have no size of their own.
    const opaque = (type.kind === 'struct' || type.kind === 'union') && !this.profile.hasStruct(type.name);
    const bits = member.bit === undefined ? undefined : bitStorage(member.bit, this.profile.sizeOf(type));
    return {
      offset,
      size: bits?.size ?? (opaque ? 0 : this.profile.sizeOf(type)),
      type,
      ...(bits && { bit: bits.bit }),
    };
  }
}

/** A bit field may cross its type's storage unit in a packed struct: then take as many bytes as it needs. */
function bitStorage(bit: NonNullable<Field['bit']>, size: number): { size: number; bit: NonNullable<Field['bit']> } {
  return { bit, size: Math.max(size, 2 ** Math.ceil(Math.log2((bit.offset + bit.width) / 8))) };
}
