/** The text that every step of the guests' work writes, copies and hashes. See `guest/report.sh`. */
import { createHash } from 'node:crypto';

/** Bytes of the block without its last newline: two pages and a bit, so that no copy of it is page-aligned throughout. */
const LENGTH = 8800;

let block: string | undefined;

/** Printable text that looks random and is always the same; no newline at its end. */
export function workBlock(): string {
  if (block !== undefined) return block;
  let text = '';
  for (let i = 0; text.length < LENGTH; i++) text += `${createHash('sha256').update(`block ${i}`).digest('base64')}\n`;
  block = text.slice(0, LENGTH).trimEnd();
  return block;
}
