/**
 * Writer of cpio archives of the "new ASCII" kind, the one that Linux unpacks as its initramfs (Linux,
 * Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root and is of time 0, so that equal
 * contents give equal archives.
 */
export type CpioEntry =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'file'; readonly path: string; readonly data: Uint8Array; readonly executable?: boolean }
  | { readonly kind: 'link'; readonly path: string; readonly target: string };

const MODE = { folder: 0o040755, file: 0o100644, executable: 0o100755, link: 0o120777 } as const;
const TRAILER = 'TRAILER!!!';

/**
 * The archive of these entries, in path order; folders that are missing are added. Paths are relative, without a leading
 * slash. Later entries replace earlier ones of the same path.
 */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Uint8Array[] = [];
  let inode = 1;
  for (const entry of complete(entries)) {
    const data = dataOf(entry);
    parts.push(header(entry.path, modeOf(entry), inode++, entry.kind === 'folder' ? 2 : 1, data.length));
    parts.push(data, padding(data.length));
  }
  parts.push(header(TRAILER, 0, 0, 1, 0));
  return Buffer.concat(parts);
}

function complete(entries: readonly CpioEntry[]): CpioEntry[] {
  const byPath = new Map<string, CpioEntry>();
  for (const entry of entries) {
    const steps = entry.path.split('/');
    for (let i = 1; i < steps.length; i++) {
      const path = steps.slice(0, i).join('/');
      if (!byPath.has(path)) byPath.set(path, { kind: 'folder', path });
    }
    byPath.set(entry.path, entry);
  }
  return [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function modeOf(entry: CpioEntry): number {
  if (entry.kind === 'file') return entry.executable ? MODE.executable : MODE.file;
  return MODE[entry.kind];
}

function dataOf(entry: CpioEntry): Uint8Array {
  switch (entry.kind) {
    case 'folder':
      return new Uint8Array(0);
    case 'file':
      return entry.data;
    case 'link':
      return Buffer.from(entry.target);
  }
}

function header(path: string, mode: number, inode: number, links: number, size: number): Buffer {
  const name = Buffer.from(`${path}\0`);
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name.length, 0];
  const text = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  const head = Buffer.from(text, 'latin1');
  return Buffer.concat([head, name, padding(head.length + name.length)]);
}

/** Names and contents end on a multiple of four bytes. */
const padding = (length: number): Uint8Array => new Uint8Array((4 - (length % 4)) % 4);
