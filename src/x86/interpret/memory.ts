/** Memory for interpretation: RAM through the CPU's own page tables; what is written goes to copies of pages. */
import { PAGE_SHIFT, PAGE_SIZE } from '../address.js';
import { type PageSource, translate } from '../paging.js';
import { type InterpretedMemory, Unpredictable } from './cpu.js';

interface Frame {
  bytes: DataView;
  copied: boolean;
}

interface Mapping {
  readonly frame: Frame;
  readonly writable: boolean;
}

const OFFSET = BigInt(PAGE_SIZE - 1);

export class CopiedMemory implements InterpretedMemory {
  readonly #source: PageSource;
  readonly #root: bigint;
  readonly #mappings = new Map<number, Mapping>();
  /** By frame number: two addresses of the same page see the same copy. */
  readonly #frames = new Map<number, Frame>();

  /** @param root the CPU's CR3 */
  constructor(source: PageSource, root: bigint) {
    this.#source = source;
    this.#root = root;
  }

  read(address: bigint, size: number): bigint {
    const at = Number(address & OFFSET);
    if (at + size > PAGE_SIZE) return this.#readBytes(address, size);
    const { bytes } = this.#mapping(address).frame;
    switch (size) {
      case 1:
        return BigInt(bytes.getUint8(at));
      case 2:
        return BigInt(bytes.getUint16(at, true));
      case 4:
        return BigInt(bytes.getUint32(at, true));
      default:
        return bytes.getBigUint64(at, true);
    }
  }

  write(address: bigint, size: number, value: bigint): void {
    const at = Number(address & OFFSET);
    if (at + size > PAGE_SIZE) {
      // Both pages are looked at before either is changed.
      this.#writable(address + BigInt(size - 1));
      this.#writable(address);
      for (let n = 0; n < size; n++) this.write(address + BigInt(n), 1, (value >> BigInt(8 * n)) & 0xffn);
      return;
    }
    const { bytes } = this.#writable(address);
    switch (size) {
      case 1:
        bytes.setUint8(at, Number(value));
        break;
      case 2:
        bytes.setUint16(at, Number(value), true);
        break;
      case 4:
        bytes.setUint32(at, Number(value), true);
        break;
      default:
        bytes.setBigUint64(at, value, true);
    }
  }

  /** Up to 15 bytes of code; fewer where the next page is not mapped. */
  code(address: bigint): Uint8Array {
    const bytes: number[] = [];
    try {
      for (let n = 0n; n < 15n; n++) bytes.push(Number(this.read(address + n, 1)));
    } catch (error) {
      if (!(error instanceof Unpredictable)) throw error;
    }
    return Uint8Array.from(bytes);
  }

  #readBytes(address: bigint, size: number): bigint {
    let value = 0n;
    for (let n = size - 1; n >= 0; n--) value = (value << 8n) | this.read(BigInt.asUintN(64, address + BigInt(n)), 1);
    return value;
  }

  #writable(address: bigint): Frame {
    const { frame, writable } = this.#mapping(address);
    if (!writable) throw new Unpredictable('a write to a page that is read-only');
    if (!frame.copied) {
      const { buffer, byteOffset } = frame.bytes;
      frame.bytes = new DataView(buffer.slice(byteOffset, byteOffset + PAGE_SIZE));
      frame.copied = true;
    }
    return frame;
  }

  #mapping(address: bigint): Mapping {
    const page = Number(BigInt.asUintN(64, address) >> BigInt(PAGE_SHIFT));
    let mapping = this.#mappings.get(page);
    if (mapping === undefined) {
      const found = translate(this.#source, this.#root, address);
      if (found === undefined) throw new Unpredictable('not mapped');
      const number = Math.floor(found.physical / PAGE_SIZE);
      mapping = { frame: this.#frame(number), writable: found.writable };
      this.#mappings.set(page, mapping);
    }
    return mapping;
  }

  #frame(number: number): Frame {
    let frame = this.#frames.get(number);
    if (frame === undefined) {
      const page = this.#source.page(number);
      // Where there is no RAM there is a device, and reading it may change it.
      if (page === undefined) throw new Unpredictable('no RAM');
      frame = { bytes: new DataView(page.buffer, page.byteOffset, PAGE_SIZE), copied: false };
      this.#frames.set(number, frame);
    }
    return frame;
  }
}
