/** A structure that a PV guest hands to a hypercall, in the guest's own memory. */
import { guestBytes, guestInDirectMap } from './guest-memory.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

export class GuestStruct {
  readonly #xen: Xen;
  readonly #vcpu: XenObject;
  readonly #struct: string;
  readonly #address: bigint;
  readonly bytes: Uint8Array;

  private constructor(xen: Xen, vcpu: XenObject, struct: string, address: bigint, bytes: Uint8Array) {
    this.#xen = xen;
    this.#vcpu = vcpu;
    this.#struct = struct;
    this.#address = address;
    this.bytes = bytes;
  }

  /** `undefined` where the guest does not map all of it. */
  static at(xen: Xen, vcpu: XenObject, struct: string, address: bigint): GuestStruct | undefined {
    const bytes = guestBytes(xen, vcpu, address, xen.sizeOf(struct));
    return bytes === undefined ? undefined : new GuestStruct(xen, vcpu, struct, address, bytes);
  }

  /** An unsigned field of up to 4 bytes. */
  num(path: string): number {
    const { offset, size } = this.#field(path);
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset);
    if (size === 1) return view.getUint8(offset);
    return size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
  }

  u64(path: string): bigint {
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset);
    return view.getBigUint64(this.#field(path).offset, true);
  }

  /** A part of it, `length` bytes from the field on. */
  slice(path: string, length: number): Uint8Array {
    const { offset } = this.#field(path);
    return this.bytes.subarray(offset, offset + length);
  }

  /** Where Xen's direct map shows a field, for a plan to write to it. */
  inDirectMap(path: string): bigint | undefined {
    return guestInDirectMap(this.#xen, this.#vcpu, this.#address + BigInt(this.#field(path).offset));
  }

  #field(path: string): { offset: number; size: number } {
    return this.#xen.profile.struct(this.#struct).field(path);
  }
}
