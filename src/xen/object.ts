/**
 * One structure of Xen's in memory: a layout and an address. Fields are named by dotted paths exactly as Xen's
 * source names them: `vcpu.u64('arch.pv.trap_bounce.eip')`.
 */
import type { StructLayout } from '../layout/profile.js';
import type { XenMemory } from './memory.js';

export class XenObject {
  readonly memory: XenMemory;
  readonly layout: StructLayout;
  readonly address: bigint;

  constructor(memory: XenMemory, layout: StructLayout, address: bigint) {
    this.memory = memory;
    this.layout = layout;
    this.address = address;
  }

  /** Address of a field. */
  at(path: string): bigint {
    return this.address + BigInt(this.layout.field(path).offset);
  }

  has(path: string): boolean {
    return this.layout.hasField(path);
  }

  /** An unsigned or signed field of up to 4 bytes (or a bit field), as a number. */
  num(path: string): number {
    const field = this.layout.field(path);
    const raw = this.#raw(field.size, field.offset);
    if (field.bit !== undefined) return (raw >>> field.bit.offset) & ((1 << field.bit.width) - 1);
    if (field.type.kind === 'base' && field.type.signed) {
      const unused = 32 - 8 * field.size;
      return (raw << unused) >> unused;
    }
    return raw;
  }

  bool(path: string): boolean {
    return this.num(path) !== 0;
  }

  /** An unsigned 64-bit field or a pointer. */
  u64(path: string): bigint {
    return this.memory.u64(this.address, this.layout.field(path).offset);
  }

  /** A signed 64-bit field, such as Xen's `s_time_t` (nanoseconds). */
  i64(path: string): bigint {
    return this.memory.i64(this.address, this.layout.field(path).offset);
  }

  #raw(size: number, offset: number): number {
    if (size === 1) return this.memory.u8(this.address, offset);
    return size === 2 ? this.memory.u16(this.address, offset) : this.memory.u32(this.address, offset);
  }
}
