/** Keeps evidence below a limit: the oldest goes first, its records stay. */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** What was removed to keep below the limit. */
export interface Pruned {
  readonly folders: number;
  readonly bytes: number;
}

interface Folder {
  readonly name: string;
  readonly bytes: number;
  /** When its last file was written, in milliseconds since 1970. */
  readonly writtenMs: number;
}

export class EvidenceStore {
  readonly #dir: string;
  readonly #limitBytes: number;
  readonly #folders = new Map<string, Folder>();

  /** @param dir the campaign's `evidence` folder, which need not exist yet */
  constructor(dir: string, limitBytes: number) {
    this.#dir = dir;
    this.#limitBytes = limitBytes;
    if (existsSync(dir)) for (const name of readdirSync(dir)) this.#look(name);
  }

  get bytes(): number {
    return [...this.#folders.values()].reduce((sum, folder) => sum + folder.bytes, 0);
  }

  /**
   * Counts a run's evidence, new or changed, and removes the oldest of others until all of it is below the limit. That of the newest
   * run stays, however large it is.
   */
  add(name: string): Pruned {
    this.#look(name);
    let total = this.bytes;
    let folders = 0;
    let bytes = 0;
    const oldestFirst = [...this.#folders.values()].sort((a, b) => a.writtenMs - b.writtenMs);
    for (const folder of oldestFirst) {
      if (total <= this.#limitBytes) break;
      if (folder.name === name) continue;
      rmSync(join(this.#dir, folder.name), { recursive: true, force: true });
      this.#folders.delete(folder.name);
      total -= folder.bytes;
      bytes += folder.bytes;
      folders++;
    }
    return { folders, bytes };
  }

  #look(name: string): void {
    const path = join(this.#dir, name);
    if (!existsSync(path)) return;
    const files = readdirSync(path).map((file) => statSync(join(path, file)));
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    this.#folders.set(name, { name, bytes, writtenMs: Math.max(0, ...files.map((file) => file.mtimeMs)) });
  }
}
