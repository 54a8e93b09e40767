/**
 * Linux out of its bzImage. Unpacking it here, once, spares each boot of dom0 and of every guest an xz decompression by an
 * emulated CPU (several seconds each).
 */
import { spawn } from 'node:child_process';
import { NinelivesError } from '../common/errors.js';

/** Offsets in the setup header (Linux, Documentation/arch/x86/boot.rst). */
const SETUP_SECTORS = 0x1f1;
const MAGIC = 0x202;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const XZ = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]);

/** The compressed kernel in a bzImage. @throws NL_ELF_INVALID */
export function payloadOf(image: Buffer): Buffer {
  if (image.length < 0x250 || image.toString('latin1', MAGIC, MAGIC + 4) !== 'HdrS') throw unsupported('no bzImage');
  const start = (image.readUInt8(SETUP_SECTORS) + 1) * 512 + image.readUInt32LE(PAYLOAD_OFFSET);
  const payload = image.subarray(start, start + image.readUInt32LE(PAYLOAD_LENGTH));
  if (!payload.subarray(0, XZ.length).equals(XZ)) throw unsupported('not compressed by xz');
  return payload;
}

/** The kernel as an ELF file. @throws NL_ELF_INVALID, NL_PACKAGE_MISSING (xz), the signal's reason */
export async function unpackKernel(image: Buffer, signal?: AbortSignal): Promise<Buffer> {
  return trimElf(await unxz(payloadOf(image), signal));
}

/** After the xz stream the payload has four bytes of length, of which xz complains when all is unpacked. */
function unxz(payload: Buffer, signal: AbortSignal | undefined): Promise<Buffer> {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const child = spawn('xz', ['-dc', '--single-stream'], { stdio: ['pipe', 'pipe', 'ignore'] });
    const out: Buffer[] = [];
    const end = (): void => void child.kill();
    signal?.addEventListener('abort', end, { once: true });
    child.once('error', (cause) =>
      reject(new NinelivesError('NL_PACKAGE_MISSING', 'xz cannot be run', { fix: 'apt-get install xz-utils', cause })),
    );
    child.stdin.on('error', () => {}); // xz may close its input before the last four bytes.
    child.stdout.on('data', (data: Buffer) => out.push(data));
    child.once('close', () => {
      signal?.removeEventListener('abort', end);
      if (signal?.aborted) reject(signal.reason as Error);
      else resolve(Buffer.concat(out));
    });
    child.stdin.end(payload);
  });
}

const PT_LOAD = 1;
const PROGRAM_HEADER = { type: 0, offset: 8, fileSize: 32, memorySize: 40 } as const;

/**
 * Drops what nobody loads: section headers, and the zeros at the end of the last segment (a third of Debian's kernel),
 * which every loader fills in by itself.
 */
export function trimElf(elf: Buffer): Buffer {
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46 || elf.readUInt8(4) !== 2)
    throw unsupported('not an ELF64 inside');
  const trimmed = Buffer.from(elf);
  const table = Number(elf.readBigUInt64LE(32));
  const entrySize = elf.readUInt16LE(54);
  let end = 64;
  for (let i = 0; i < elf.readUInt16LE(56); i++) {
    const at = table + i * entrySize;
    end = Math.max(end, at + entrySize);
    if (elf.readUInt32LE(at + PROGRAM_HEADER.type) !== PT_LOAD) continue;
    const offset = Number(elf.readBigUInt64LE(at + PROGRAM_HEADER.offset));
    const size = Number(elf.readBigUInt64LE(at + PROGRAM_HEADER.fileSize));
    if (offset + size > elf.length) throw unsupported('truncated');
    const used = lengthWithoutZeros(elf.subarray(offset, offset + size));
    trimmed.writeBigUInt64LE(BigInt(used), at + PROGRAM_HEADER.fileSize);
    end = Math.max(end, offset + used);
  }
  // No section headers: offset, count and index of the names are zero.
  trimmed.writeBigUInt64LE(0n, 40);
  trimmed.writeUInt16LE(0, 60);
  trimmed.writeUInt16LE(0, 62);
  return trimmed.subarray(0, end);
}

function lengthWithoutZeros(bytes: Buffer): number {
  let length = bytes.length;
  while (length > 0 && bytes[length - 1] === 0) length--;
  return length;
}

const unsupported = (why: string): NinelivesError =>
  new NinelivesError('NL_ELF_INVALID', `the Linux kernel image cannot be unpacked: ${why}`, {
    fix: "use Debian 12's linux-image package",
  });
