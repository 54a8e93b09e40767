/**
 * The files a box boots from: Xen, Linux, and one initramfs for dom0 that carries the guests' kernel, initramfs and
 * configurations. Named by a hash of all that goes into them, so they are built again exactly when something changes.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { Progress } from '../common/progress.js';
import { dom0Parts } from './initramfs.js';
import { unpackKernel } from './kernel.js';
import type { PackageSet } from './packages.js';
import { assemble, describeParts, theOne } from './parts.js';
import { ownVersion } from './paths.js';
import type { BoxSpec } from './spec.js';

/** What a box boots from. Paths of files. */
export interface BoxFiles {
  readonly xen: string;
  /** Symbols of the same Xen, static ones too, without types. */
  readonly xenSymbols: string;
  readonly xenVersion: string;
  readonly kernel: string;
  readonly initramfs: string;
  /** Of everything above and of ninelives' version: a snapshot is good for this hash only. */
  readonly hash: string;
  /** What the VMs' reports begin with; see `reports.ts`. 32 letters and digits. */
  readonly magic: string;
}

/** Builds what is missing. @throws NL_ELF_INVALID, NL_PACKAGE_MISSING, the signal's reason */
export async function buildImages(
  packages: PackageSet,
  spec: BoxSpec,
  cache: string,
  progress: Progress,
  signal?: AbortSignal,
): Promise<BoxFiles> {
  const folder = join(cache, 'images');
  mkdirSync(folder, { recursive: true });
  const xen = join(folder, `xen-${packages.xenVersion}`);
  const kernel = join(folder, `linux-${packages.versions[packages.kernelPackage] ?? 'unknown'}`);
  const hash = hashOf(packages, spec, kernel);
  const magic = `NL${createHash('sha256').update(`magic ${hash}`).digest('hex').slice(0, 30)}`;
  const initramfs = join(folder, `dom0-${hash.slice(0, 16)}.cpio`);

  if (![xen, kernel, initramfs].every((path) => existsSync(path))) progress.step('building the images');
  if (!existsSync(xen)) place(xen, gunzipSync(readFileSync(theOne(join(packages.root, 'boot'), /^xen-.*\.gz$/))));
  if (!existsSync(kernel)) {
    progress.detail('unpacking Linux');
    place(kernel, await unpackKernel(readFileSync(theOne(join(packages.root, 'boot'), /^vmlinuz-/)), signal));
  }
  if (!existsSync(initramfs)) {
    progress.detail('initramfs');
    place(initramfs, assemble(dom0Parts(packages, spec, magic, kernel)));
  }
  const xenSymbols = theOne(join(packages.root, 'usr/lib/debug/boot'), /^xen-syms-[^.]*[.]\d+-amd64$/);
  return { xen, xenSymbols, xenVersion: packages.xenVersion, kernel, initramfs, hash, magic };
}

/** The initramfs has the magic, which is made of the hash: so the hash is that of one with another magic. */
const MAGIC_PLACE = '-'.repeat(32);

function hashOf(packages: PackageSet, spec: BoxSpec, kernel: string): string {
  const versions = Object.entries(packages.versions).sort();
  const parts = describeParts(dom0Parts(packages, spec, MAGIC_PLACE, kernel));
  const { dom0, guests, newVm, pinning } = spec;
  return createHash('sha256')
    .update(JSON.stringify([ownVersion(), versions, dom0, guests, newVm, pinning, parts]))
    .digest('hex');
}

/** A file appears complete or not at all. */
function place(path: string, data: Uint8Array): void {
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, data);
  renameSync(draft, path);
}
