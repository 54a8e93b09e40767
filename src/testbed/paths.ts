/** Where things are on this machine: our own files, and the cache folder for what can be made again. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the scripts that run inside the box; the same from `src/` and from `dist/`. */
export const guestFolder = (): string => fileURLToPath(new URL('../../guest', import.meta.url));

/** Packages, images and snapshots: `$NINELIVES_CACHE`, or `ninelives` in the user's cache folder. */
export function cacheFolder(environment: Readonly<NodeJS.ProcessEnv> = process.env): string {
  const own = environment.NINELIVES_CACHE;
  if (own !== undefined && own !== '') return own;
  const base = environment.XDG_CACHE_HOME;
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'ninelives');
}

let version: string | undefined;

/** Version of ninelives itself, from its package.json. */
export function ownVersion(): string {
  if (version === undefined) {
    const text = readFileSync(fileURLToPath(new URL('../../package.json', import.meta.url)), 'utf8');
    version = String((JSON.parse(text) as Record<string, unknown>).version);
  }
  return version;
}
