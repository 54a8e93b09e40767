import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { assemble, describeParts, kernelModules, libraries, type Part, text } from '../../src/testbed/parts.js';
import { DEFAULT_BOX, type GuestSpec } from '../../src/testbed/spec.js';
import { dom0ModulesFor, vmsWithDisk } from '../../src/testbed/works.js';

const folders: string[] = [];
function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'nl-parts-'));
  folders.push(made);
  return made;
}
afterEach(() => {
  for (const made of folders.splice(0)) rmSync(made, { recursive: true, force: true });
});

const guest = (name: string, work: GuestSpec['work']): GuestSpec => ({ ...DEFAULT_BOX.guests[0]!, name, work });

describe('the parts of an initramfs', () => {
  it('are told apart by path, text, name of what is copied, and what is in an archive in it', () => {
    const inner = (data: string): Part => ({ kind: 'archive', path: 'a', parts: [text('b', data)] });
    const lists: Part[][] = [
      [text('a', 'x')],
      [text('a', 'y')],
      [text('b', 'x')],
      [{ kind: 'copy', path: 'a', from: '/p/one' }],
      [{ kind: 'copy', path: 'a', from: '/p/two' }],
      [{ kind: 'link', path: 'a', target: 'b' }],
      [inner('x')],
      [inner('y')],
    ];
    expect(new Set(lists.map(describeParts)).size).toBe(lists.length);
    expect(describeParts([text('a', 'x')])).toBe(describeParts([text('a', 'x')]));
  });

  it('become one archive, archives in it included', () => {
    const from = join(folder(), 'file');
    writeFileSync(from, 'copied bytes');
    const archive = assemble([
      { kind: 'archive', path: 'inner.cpio', parts: [{ kind: 'copy', path: 'file', from, executable: true }] },
    ]).toString('latin1');
    expect(archive).toContain('inner.cpio');
    expect(archive).toContain('copied bytes');
  });

  it('have each library once, and its short name as a link', () => {
    const root = folder();
    const place = join(root, 'usr/lib/x86_64-linux-gnu');
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, 'libz.so.1.2.13'), 'z');
    symlinkSync('libz.so.1.2.13', join(place, 'libz.so.1'));
    writeFileSync(join(place, 'libother.so.1'), 'other');
    const parts = libraries(root, /^libz\.so/).filter((part) => part.path.startsWith('usr/lib'));
    expect(parts.map(({ kind, path }) => [kind, path.split('/').at(-1)])).toEqual(
      expect.arrayContaining([
        ['copy', 'libz.so.1.2.13'],
        ['link', 'libz.so.1'],
      ]),
    );
    expect(parts.length).toBe(2);
  });

  it('have kernel modules in the order asked for, and say which one is missing', () => {
    const root = folder();
    for (const name of ['fs/jbd2/jbd2', 'fs/ext4/ext4']) {
      const file = join(root, `lib/modules/6.1/kernel/${name}.ko`);
      mkdirSync(join(file, '..'), { recursive: true });
      writeFileSync(file, name);
    }
    expect(kernelModules(root, ['jbd2', 'ext4']).map((part) => part.path)).toEqual([
      'lib/modules/jbd2.ko',
      'lib/modules/ext4.ko',
    ]);
    expect(() => kernelModules(root, ['brd'])).toThrow(expect.objectContaining({ code: 'NL_PACKAGE_MISSING' }));
  });
});

describe('what works need', () => {
  it('is a disk for BlkBench, the new VM last', () => {
    const guests = [guest('app1', 'files'), guest('app2', 'blkbench'), guest('app3', 'blkbench')];
    expect(vmsWithDisk({ guests, newVm: 'blkbench' }, 'new1')).toEqual(['app2', 'app3', 'new1']);
    expect(vmsWithDisk({ guests, newVm: 'mix' }, 'new1')).toEqual(['app2', 'app3']);
  });

  it("is a module of dom0's once, however many VMs need it, and none for work on files", () => {
    const guests = [guest('app2', 'blkbench'), guest('app3', 'blkbench')];
    expect(dom0ModulesFor({ guests, newVm: 'blkbench' })).toEqual(['brd', 'xen-blkback']);
    expect(dom0ModulesFor(DEFAULT_BOX)).toEqual([]);
  });
});
