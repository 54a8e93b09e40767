/**
 * The framing of the GDB remote protocol: `$payload#checksum`, acknowledgements, escapes and run-length encoding.
 * Pure: bytes in, frames out. Payloads are latin-1 strings, one character for each byte.
 *
 * Source of the format: the GDB manual, appendix "Remote Protocol", sections "Overview" and "Interrupts".
 */

/** What a peer can have sent. `corrupt`: a packet whose checksum does not match; `noise`: bytes outside any packet. */
export type Frame =
  | { readonly kind: 'packet'; readonly payload: string }
  | { readonly kind: 'ack' }
  | { readonly kind: 'nack' }
  | { readonly kind: 'interrupt' }
  | { readonly kind: 'corrupt'; readonly reason: string }
  | { readonly kind: 'noise'; readonly bytes: number };

const DOLLAR = 0x24;
const HASH = 0x23;
const ESCAPE = 0x7d;
const STAR = 0x2a;
const PLUS = 0x2b;
const MINUS = 0x2d;
const INTERRUPT = 0x03;
/** A run's count is written as one printable character: the number of extra copies plus this. */
const RUN_BASE = 29;
/** Nobody sends packets this long: QEMU's own limit is 4 KiB, doubled by escapes. */
const LONGEST_PACKET = 1 << 20;

export const ACK = '+';
export const NACK = '-';
export const INTERRUPT_BYTE = '\x03';

/** How a packet is written: QEMU accepts runs but never needs them; the tests write both ways. */
export type Compression = 'none' | 'run-length';

/** `payload` as a packet ready for the wire. @throws nothing; characters above 0xff are cut to 8 bits. */
export function encodePacket(payload: string, compression: Compression = 'none'): string {
  const body = compression === 'none' ? escapeAll(payload) : escapeRuns(payload);
  return `$${body}#${checksum(body)}`;
}

/** Collects bytes as they arrive and gives the frames that are complete. Keeps an unfinished packet for the next call. */
export class PacketDecoder {
  #rest: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): Frame[] {
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const frames: Frame[] = [];
    let at = 0;
    while (at < data.length) {
      const byte = data[at];
      if (byte === DOLLAR) {
        const end = data.indexOf(HASH, at + 1);
        if (end < 0 || end + 2 >= data.length) {
          if (data.length - at < LONGEST_PACKET) break;
          frames.push({ kind: 'corrupt', reason: 'packet without end' });
          at = data.length;
          break;
        }
        frames.push(readPacket(data, at + 1, end));
        at = end + 3;
      } else if (byte === PLUS || byte === MINUS || byte === INTERRUPT) {
        frames.push({ kind: byte === PLUS ? 'ack' : byte === MINUS ? 'nack' : 'interrupt' });
        at++;
      } else {
        const start = at;
        while (at < data.length && !isFrameStart(data[at]!)) at++;
        frames.push({ kind: 'noise', bytes: at - start });
      }
    }
    this.#rest = data.subarray(at);
    return frames;
  }
}

const isFrameStart = (byte: number): boolean =>
  byte === DOLLAR || byte === PLUS || byte === MINUS || byte === INTERRUPT;

function readPacket(data: Buffer, start: number, end: number): Frame {
  let sum = 0;
  let plain = true;
  for (let i = start; i < end; i++) {
    const byte = data[i]!;
    sum += byte;
    if (byte === ESCAPE || byte === STAR) plain = false;
  }
  const given = data.toString('latin1', end + 1, end + 3);
  const wanted = hexByte(sum & 0xff);
  if (given.toLowerCase() !== wanted) return { kind: 'corrupt', reason: `checksum ${given}, expected ${wanted}` };
  if (plain) return { kind: 'packet', payload: data.toString('latin1', start, end) };
  return expand(data, start, end);
}

function expand(data: Buffer, start: number, end: number): Frame {
  let text = '';
  let last = '';
  for (let i = start; i < end; i++) {
    const byte = data[i]!;
    if (byte === STAR) {
      i++;
      const copies = i < end ? data[i]! - RUN_BASE : 0;
      if (last === '' || copies <= 0) return { kind: 'corrupt', reason: 'run without a character or a count' };
      text += last.repeat(copies);
      continue;
    }
    if (byte === ESCAPE) {
      i++;
      if (i >= end) return { kind: 'corrupt', reason: 'escape at the end of a packet' };
      last = String.fromCharCode(data[i]! ^ 0x20);
    } else {
      last = String.fromCharCode(byte);
    }
    text += last;
  }
  return { kind: 'packet', payload: text };
}

const NEEDS_ESCAPE = /[#$}*]/g;

const escapeAll = (text: string): string =>
  text.replace(NEEDS_ESCAPE, (character) => `}${String.fromCharCode(character.charCodeAt(0) ^ 0x20)}`);

/** Runs of 4 or more become `c*n`. Counts whose character would itself be a frame mark are shortened. */
function escapeRuns(text: string): string {
  let body = '';
  for (let i = 0; i < text.length; ) {
    let length = 1;
    while (i + length < text.length && text[i + length] === text[i] && length < 98) length++;
    let extra = length - 1;
    while (extra >= 3 && '#$+-*}'.includes(String.fromCharCode(extra + RUN_BASE))) extra--;
    const character = escapeAll(text[i]!);
    if (extra >= 3) {
      body += `${character}*${String.fromCharCode(extra + RUN_BASE)}`;
      i += extra + 1;
    } else {
      body += character;
      i++;
    }
  }
  return body;
}

function checksum(body: string): string {
  let sum = 0;
  for (let i = 0; i < body.length; i++) sum += body.charCodeAt(i) & 0xff;
  return hexByte(sum & 0xff);
}

const hexByte = (value: number): string => value.toString(16).padStart(2, '0');
