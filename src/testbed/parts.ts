/** What an initramfs is made of, before anything large is read: small enough to be hashed each time a box is opened. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { NinelivesError } from '../common/errors.js';
import { type CpioEntry, writeCpio } from './cpio.js';

export type Part =
  | CpioEntry
  /** A file of this machine; of a package, unless it is `made` from one. */
  | { readonly kind: 'copy'; readonly path: string; readonly from: string; readonly executable?: boolean }
  /** An archive in the archive. */
  | { readonly kind: 'archive'; readonly path: string; readonly parts: readonly Part[] };

export const text = (path: string, data: string): Part => ({ kind: 'file', path, data: Buffer.from(data) });
export const program = (path: string, from: string): Part => ({ kind: 'copy', path, from, executable: true });

/**
 * Tells one list of parts from another. Of copies it knows only the names: the versions of the packages have to be hashed beside it.
 */
export function describeParts(parts: readonly Part[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    const about = part.kind === 'copy' ? basename(part.from) : part.kind === 'link' ? part.target : '';
    hash.update(JSON.stringify([part.kind, part.path, about, 'executable' in part && part.executable === true]));
    if (part.kind === 'file') hash.update(part.data);
    if (part.kind === 'archive') hash.update(describeParts(part.parts));
  }
  return hash.digest('hex');
}

/** The archive. Takes as long as it takes to read all copies. */
export function assemble(parts: readonly Part[]): Buffer {
  return writeCpio(
    parts.map((part): CpioEntry => {
      switch (part.kind) {
        case 'copy':
          return { kind: 'file', path: part.path, data: readFileSync(part.from), executable: part.executable === true };
        case 'archive':
          return { kind: 'file', path: part.path, data: assemble(part.parts) };
        default:
          return part;
      }
    }),
  );
}

const LIBRARY_FOLDER = 'usr/lib/x86_64-linux-gnu';

/** The shared libraries in an unpacked tree whose names match, and the links by which they are found. */
export function libraries(root: string, wanted: RegExp): Part[] {
  const files = ['lib/x86_64-linux-gnu', LIBRARY_FOLDER]
    .map((folder) => join(root, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)))
    .filter((path) => wanted.test(basename(path)) && existsSync(path) && statSync(path).isFile());
  return [
    ...files.map((path): Part => {
      const place = `${LIBRARY_FOLDER}/${basename(path)}`;
      // A library is looked for by its short name, which is a link to the file.
      const real = basename(realpathSync(path));
      return real === basename(path) ? program(place, path) : { kind: 'link', path: place, target: real };
    }),
    { kind: 'link', path: 'lib/x86_64-linux-gnu', target: '../usr/lib/x86_64-linux-gnu' },
    { kind: 'link', path: 'lib64/ld-linux-x86-64.so.2', target: '../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2' },
  ];
}

/** Kernel modules of these names, wherever the kernel's package has them. @throws NL_PACKAGE_MISSING */
export function kernelModules(root: string, names: readonly string[]): Part[] {
  const folder = join(root, 'lib/modules');
  const files = existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: 'utf8' }) : [];
  return names.map((name): Part => {
    const found = files.find((file) => basename(file) === `${name}.ko`);
    if (found === undefined) throw lacks(`${name}.ko`, folder);
    return { kind: 'copy', path: `lib/modules/${name}.ko`, from: join(folder, found) };
  });
}

/** The file in a folder whose name matches. @throws NL_PACKAGE_MISSING */
export function theOne(folder: string, pattern: RegExp): string {
  const name = existsSync(folder) ? readdirSync(folder).find((entry) => pattern.test(entry)) : undefined;
  if (name === undefined) throw lacks(pattern.source, folder);
  return join(folder, name);
}

/** The first of these paths that exists. @throws NL_PACKAGE_MISSING */
export function firstOf(...paths: string[]): string {
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) throw lacks(paths.map((path) => basename(path)).join(' or '), paths[0] ?? '');
  return found;
}

const lacks = (what: string, where: string): NinelivesError =>
  new NinelivesError('NL_PACKAGE_MISSING', `the unpacked packages have no ${what} in ${where}`, {
    fix: 'remove the folder "packages" of the cache, so that they are fetched again',
  });
