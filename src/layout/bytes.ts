/** A bounds-checked little-endian reader over a file image. Everything that parses ELF or DWARF reads through it. */
import { NinelivesError } from '../common/errors.js';

/** @returns the error for a file that is truncated, damaged or of a kind that is not supported. */
export function elfInvalid(what: string, where: string, cause?: unknown): NinelivesError {
  return new NinelivesError('NL_ELF_INVALID', `${what} (${where})`, {
    fix: 'Give an unstripped, complete 64-bit little-endian x86 ELF file such as xen-syms.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * A cursor in a part of a file. Positions are relative to `bytes`; `what` names the part in errors
 * ("section .debug_info"). Every read past the end throws NL_ELF_INVALID.
 */
export class Cursor {
  readonly #view: DataView;
  pos: number;
  readonly end: number;

  constructor(
    readonly bytes: Uint8Array,
    readonly what: string,
    pos = 0,
    end = bytes.length,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.pos = pos;
    this.end = end;
    if (pos < 0 || pos > end || end > bytes.length) throw this.#short(0);
  }

  #short(wanted: number): NinelivesError {
    return elfInvalid('the file ends too early', `${this.what}, ${wanted} bytes wanted at 0x${this.pos.toString(16)}`);
  }

  #take(length: number): number {
    const at = this.pos;
    if (length < 0 || at + length > this.end) throw this.#short(length);
    this.pos = at + length;
    return at;
  }

  skip(length: number): void {
    this.#take(length);
  }
  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }
  i8(): number {
    return this.#view.getInt8(this.#take(1));
  }
  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }
  u24(): number {
    const at = this.#take(3);
    return this.#view.getUint16(at, true) | (this.#view.getUint8(at + 2) << 16);
  }
  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }
  i32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** A 64-bit size or file offset. Throws when it is too large to lie in any file. */
  size64(): number {
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER))
      throw elfInvalid('an offset or size is out of range', `${this.what} at 0x${(this.pos - 8).toString(16)}`);
    return Number(value);
  }

  /** Unsigned LEB128; exact up to 2^53, larger values lose low bits (only flags and sizes are read with it). */
  uleb(): number {
    let result = 0;
    let scale = 1;
    for (;;) {
      const byte = this.u8();
      result += (byte & 0x7f) * scale;
      if (byte < 0x80) return result;
      scale *= 128;
      if (scale > 2 ** 77)
        throw elfInvalid('a variable-length number does not end', `${this.what} at 0x${this.pos.toString(16)}`);
    }
  }

  /** Signed LEB128, same range as `uleb`. */
  sleb(): number {
    let result = 0;
    let scale = 1;
    for (;;) {
      const byte = this.u8();
      result += (byte & 0x7f) * scale;
      scale *= 128;
      if (byte < 0x80) return byte & 0x40 ? result - scale : result;
      if (scale > 2 ** 77)
        throw elfInvalid('a variable-length number does not end', `${this.what} at 0x${this.pos.toString(16)}`);
    }
  }

  /** A zero-terminated string (Latin-1, which includes ASCII). */
  cstring(): string {
    const stop = this.bytes.indexOf(0, this.pos);
    if (stop < 0 || stop >= this.end)
      throw elfInvalid('a string does not end', `${this.what} at 0x${this.pos.toString(16)}`);
    const text = latin1(this.bytes, this.pos, stop);
    this.pos = stop + 1;
    return text;
  }
}

/** Bytes `from`..`to` as Latin-1 text. */
export function latin1(bytes: Uint8Array, from: number, to: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString('latin1');
}
