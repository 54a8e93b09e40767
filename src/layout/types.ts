/**
 * Types as a profile knows them, and their text form. The text form is what the profile file holds, so that a
 * difference between two profiles can be read by a person:
 *
 *     u32  s64  bool  char  void  fn          base types and functions
 *     *struct domain                          pointer to
 *     [16]u8   []u64                          array; without a count where the size is open
 *     struct domain   union x   enum:u32 y    by name
 */
import { NinelivesError } from '../common/errors.js';

export type TypeRef =
  | { readonly kind: 'void' }
  /** `size` in bytes. */
  | { readonly kind: 'base'; readonly name: string; readonly size: number; readonly signed: boolean }
  | { readonly kind: 'pointer'; readonly to: TypeRef }
  | { readonly kind: 'struct'; readonly name: string }
  | { readonly kind: 'union'; readonly name: string }
  /** `count` is undefined for a flexible or open array. */
  | { readonly kind: 'array'; readonly of: TypeRef; readonly count: number | undefined }
  | { readonly kind: 'enum'; readonly name: string; readonly size: number; readonly signed: boolean }
  | { readonly kind: 'function' };

/** One member of a struct or union; `bit` for bit fields: `bit.offset` counts from the least significant bit of the storage. */
export interface MemberText {
  readonly offset: number;
  readonly type: string;
  readonly bit?: { readonly offset: number; readonly width: number };
}

const cache = new Map<string, TypeRef>();

/** @throws NL_PROFILE_MISMATCH when the text is none that `make.ts` writes */
export function parseType(text: string): TypeRef {
  let type = cache.get(text);
  if (type === undefined) {
    type = parse(text);
    cache.set(text, type);
  }
  return type;
}

function parse(text: string): TypeRef {
  if (text === 'void') return { kind: 'void' };
  if (text === 'fn') return { kind: 'function' };
  if (text.startsWith('*')) return { kind: 'pointer', to: parseType(text.slice(1)) };
  if (text.startsWith('[')) {
    const close = text.indexOf(']');
    const count = close === 1 ? undefined : Number(text.slice(1, close));
    return { kind: 'array', of: parseType(text.slice(close + 1)), count };
  }
  const space = text.indexOf(' ');
  if (space > 0) {
    const name = text.slice(space + 1);
    const head = text.slice(0, space);
    if (head === 'struct' || head === 'union') return { kind: head, name };
    if (head.startsWith('enum:')) {
      const base = parseType(head.slice(5));
      if (base.kind === 'base') return { kind: 'enum', name, size: base.size, signed: base.signed };
    }
  }
  if (text === 'bool') return { kind: 'base', name: text, size: 1, signed: false };
  if (text === 'char') return { kind: 'base', name: text, size: 1, signed: true };
  const base = /^([usf])(\d+)$/.exec(text);
  if (base !== null) return { kind: 'base', name: text, size: Number(base[2]) / 8, signed: base[1] !== 'u' };
  throw new NinelivesError('NL_PROFILE_MISMATCH', `the profile holds a type that cannot be read: '${text}'`, {
    fix: 'Make the profile again with this version of ninelives.',
  });
}

/** A member as the profile file holds it: `offset type`, or `offset:bit+width type` for a bit field. */
export function formatMember(member: MemberText): string {
  const bit = member.bit === undefined ? '' : `:${member.bit.offset}+${member.bit.width}`;
  return `${member.offset}${bit} ${member.type}`;
}

/** The inverse of `formatMember`. */
export function parseMember(text: string): MemberText {
  const space = text.indexOf(' ');
  const place = text.slice(0, space);
  const type = text.slice(space + 1);
  const colon = place.indexOf(':');
  if (colon < 0) return { offset: Number(place), type };
  const plus = place.indexOf('+', colon);
  return {
    offset: Number(place.slice(0, colon)),
    type,
    bit: { offset: Number(place.slice(colon + 1, plus)), width: Number(place.slice(plus + 1)) },
  };
}
