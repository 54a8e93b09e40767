/**
 * Frames over a stream, as QEMU's `-netdev stream` has them: each with its length before it, four bytes, the highest first
 * (QEMU 7.2, net/stream.c and net_fill_rstate of net/net.c). Pure.
 */

const PREFIX = 4;
/** QEMU's own limit (NET_BUFSIZE): a longer frame means that we have lost our place. */
const LONGEST_FRAME = 4096 + 65536;

/** A frame as it goes over the stream. */
export function prefixed(frame: Buffer): Buffer {
  const message = Buffer.allocUnsafe(PREFIX + frame.length);
  message.writeUInt32BE(frame.length, 0);
  frame.copy(message, PREFIX);
  return message;
}

/** Puts frames together from the pieces in which a stream brings them. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);

  /**
   * The frames that are complete with this piece, in order. They are good until the next call.
   * @throws RangeError for a length that no frame has
   */
  push(piece: Buffer): Buffer[] {
    let data = this.#rest.length === 0 ? piece : Buffer.concat([this.#rest, piece]);
    const frames: Buffer[] = [];
    while (data.length >= PREFIX) {
      const length = data.readUInt32BE(0);
      if (length > LONGEST_FRAME) throw new RangeError(`a frame of ${length} bytes`);
      if (data.length < PREFIX + length) break;
      frames.push(data.subarray(PREFIX, PREFIX + length));
      data = data.subarray(PREFIX + length);
    }
    // A copy: what is kept must not hold on to a large piece, nor change with it.
    this.#rest = Buffer.from(data);
    return frames;
  }
}
