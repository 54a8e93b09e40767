import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CpioEntry, writeCpio } from '../../src/testbed/cpio.js';

interface Read {
  readonly path: string;
  readonly mode: number;
  readonly data: Buffer;
}

/** A reader of our own, from the format's description. */
function readCpio(archive: Buffer): Read[] {
  const entries: Read[] = [];
  for (let at = 0; ; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (i: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + i * 8, at + 14 + i * 8), 16);
    const nameEnd = at + 110 + field(11);
    const path = archive.toString('utf8', at + 110, nameEnd - 1);
    const start = Math.ceil(nameEnd / 4) * 4;
    if (path === 'TRAILER!!!') return entries;
    entries.push({ path, mode: field(1), data: archive.subarray(start, start + field(6)) });
    at = Math.ceil((start + field(6)) / 4) * 4;
  }
}

describe('cpio', () => {
  it('adds missing folders before what is in them', () => {
    const paths = readCpio(writeCpio([{ kind: 'file', path: 'a/b/c', data: Buffer.from('x') }])).map(
      (entry) => entry.path,
    );
    expect(paths).toEqual(['a', 'a/b', 'a/b/c']);
  });

  it('keeps contents, modes and link targets', () => {
    const entries = readCpio(
      writeCpio([
        { kind: 'file', path: 'init', data: Buffer.from('#!'), executable: true },
        { kind: 'file', path: 'text', data: Buffer.from('12345') },
        { kind: 'link', path: 'lib', target: 'usr/lib' },
      ]),
    );
    expect(entries.map(({ path, mode, data }) => [path, mode.toString(8), data.toString()])).toEqual([
      ['init', '100755', '#!'],
      ['lib', '120777', 'usr/lib'],
      ['text', '100644', '12345'],
    ]);
  });

  it('gives equal archives for equal contents in any order', () => {
    const name = fc.stringMatching(/^[a-z]{1,8}$/);
    const file = fc.record({ path: name, data: fc.uint8Array({ maxLength: 50 }) });
    fc.assert(
      fc.property(fc.uniqueArray(file, { selector: (entry) => entry.path }), (files) => {
        const entries: CpioEntry[] = files.map(({ path, data }) => ({ kind: 'file', path, data }));
        const archive = writeCpio(entries);
        expect(writeCpio([...entries].reverse()).equals(archive)).toBe(true);
        expect(new Map(readCpio(archive).map(({ path, data }) => [path, data.toString('hex')]))).toEqual(
          new Map(files.map(({ path, data }) => [path, Buffer.from(data).toString('hex')])),
        );
      }),
    );
  });

  it('is read by cpio itself, where that is installed', ({ skip }) => {
    const archive = writeCpio([{ kind: 'file', path: 'a/b', data: Buffer.from('odd') }]);
    let listed: string;
    try {
      listed = execFileSync('cpio', ['-t', '--quiet'], { input: archive, encoding: 'utf8' });
    } catch {
      return skip();
    }
    expect(listed).toBe('a\na/b\n');
  });
});
