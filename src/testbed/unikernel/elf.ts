/**
 * An ELF64 file that Xen's domain builder takes for a PV kernel: one segment with everything in it, and the notes in which
 * a PV kernel says what it needs (Xen, xen/include/public/elfnote.h).
 */
export interface PvImage {
  /** Address of the segment, at a page's begin; addresses are those of the guest's own pages, from 0. */
  readonly base: number;
  /** The begin of the segment; the rest of it is zero. */
  readonly content: Buffer;
  /** Bytes that the segment takes in memory. */
  readonly memorySize: number;
  readonly entry: number;
  /** Address of the page that Xen fills with its hypercall entries. */
  readonly hypercallPage: number;
}

const NOTE = {
  entry: 1,
  hypercallPage: 2,
  virtBase: 3,
  paddrOffset: 4,
  xenVersion: 5,
  guestOs: 6,
  loader: 8,
  pae: 9,
} as const;
const HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;
const CONTENT_AT = 4096;

export function pvElf({ base, content, memorySize, entry, hypercallPage }: PvImage): Buffer {
  const notes = Buffer.concat([
    note(NOTE.guestOs, text('ninelives')),
    note(NOTE.loader, text('generic')),
    note(NOTE.xenVersion, text('xen-3.0')),
    note(NOTE.pae, text('yes')),
    note(NOTE.virtBase, number(0)),
    note(NOTE.paddrOffset, number(0)),
    note(NOTE.entry, number(entry)),
    note(NOTE.hypercallPage, number(hypercallPage)),
  ]);
  const notesAt = HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE;
  const file = Buffer.alloc(CONTENT_AT + content.length);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(2, 16); // an executable
  file.writeUInt16LE(62, 18); // for x86-64
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(entry), 24);
  file.writeBigUInt64LE(BigInt(HEADER_SIZE), 32);
  file.writeUInt16LE(HEADER_SIZE, 52);
  file.writeUInt16LE(PROGRAM_HEADER_SIZE, 54);
  file.writeUInt16LE(2, 56);
  file.writeUInt16LE(64, 58);
  file.set(programHeader(1, 7, CONTENT_AT, base, content.length, memorySize), HEADER_SIZE);
  file.set(programHeader(4, 4, notesAt, 0, notes.length, notes.length), HEADER_SIZE + PROGRAM_HEADER_SIZE);
  file.set(notes, notesAt);
  file.set(content, CONTENT_AT);
  return file;
}

function programHeader(
  type: number,
  flags: number,
  offset: number,
  address: number,
  size: number,
  memory: number,
): Buffer {
  const header = Buffer.alloc(PROGRAM_HEADER_SIZE);
  header.writeUInt32LE(type, 0);
  header.writeUInt32LE(flags, 4);
  for (const [at, value] of [
    [8, offset],
    [16, address],
    [24, address],
    [32, size],
    [40, memory],
    [48, 4],
  ] as const)
    header.writeBigUInt64LE(BigInt(value), at);
  return header;
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`);

function number(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function note(type: number, value: Buffer): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(4, 0);
  head.writeUInt32LE(value.length, 4);
  head.writeUInt32LE(type, 8);
  head.write('Xen', 12);
  return Buffer.concat([head, value, Buffer.alloc((4 - (value.length % 4)) % 4)]);
}
