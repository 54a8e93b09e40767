import { ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Qmp } from '../../src/machine/qmp.js';
import { MappedRam } from '../../src/machine/ram.js';
import { checkSnapshot, restoreRam, type SnapshotIdentity, writeSnapshot } from '../../src/machine/snapshot.js';
import { Folder, failure } from './fakes/folder.js';
import { FakeQmp } from './fakes/qmp.js';

const SIZE = 1 << 20;
const IDENTITY: SnapshotIdentity = {
  qemu: '7.2.22 (fake)',
  cpus: 4,
  memoryBytes: SIZE,
  argumentsHash: 'a1',
  imageHash: 'i1',
};

let folder: Folder;
let server: FakeQmp;
let qmp: Qmp;
let ram: MappedRam;

beforeEach(async () => {
  folder = new Folder();
  server = await FakeQmp.listen(folder.file('qmp'));
  server.answer = (command, args) => {
    // What a shell does with it: the bytes go to a draft, which gets its name when they are complete.
    if (command === 'migrate') setTimeout(() => writeFileSync(nameIn(String(args.uri)), 'devices'), WRITING_MS);
    if (command === 'query-migrate') return { return: { status: 'completed' } };
    return { return: command === 'query-block' ? [] : {} };
  };
  qmp = await Qmp.open(server.path);
  const fd = openSync(folder.file('ram'), 'w+');
  ftruncateSync(fd, SIZE);
  ram = new MappedRam(fd, SIZE, [{ start: 0, end: SIZE, offset: 0 }]);
});

afterEach(async () => {
  ram[Symbol.dispose]();
  qmp.close();
  await server.close();
  folder[Symbol.dispose]();
});

const contents = (): Buffer => readFileSync(folder.file('ram'));
const save = (): Promise<unknown> => writeSnapshot(folder.file('snap'), qmp, ram, IDENTITY, { note: 'x' });

/** How long the shell goes on after QEMU takes the migration for complete. */
const WRITING_MS = 20;
/** Of `exec:cat > 'draft' && mv 'draft' 'name' || ...` the name. */
const nameIn = (uri: string): string => uri.split("'")[5]!;

describe('snapshot', () => {
  it('makes RAM what it was, whatever was written before and after', async () => {
    const writes = fc.array(fc.tuple(fc.nat(SIZE - 5000), fc.uint8Array({ minLength: 1, maxLength: 5000 })), {
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(writes, writes, async (before, after) => {
        for (const [at, bytes] of before) ram.write(at, bytes);
        const wanted = contents();
        await save();
        for (const [at, bytes] of after) ram.write(at, bytes);
        const { writtenBytes } = restoreRam(ram, folder.file('snap'));
        expect(contents().equals(wanted)).toBe(true);
        expect(writtenBytes).toBeLessThanOrEqual(after.length * 3 * 4096);
      }),
      { numRuns: 40 },
    );
  });

  it('writes only pages that differ', async () => {
    for (let frame = 0; frame < 100; frame++) ram.write(frame * 4096, Uint8Array.of(frame + 1));
    await save();
    ram.write(5 * 4096 + 9, Uint8Array.of(1));
    ram.write(77 * 4096 + 9, Uint8Array.of(1));
    expect(restoreRam(ram, folder.file('snap')).writtenBytes).toBe(2 * 4096);
  });

  it('fits the machine it was made of', async () => {
    await save();
    const check = checkSnapshot(folder.file('snap'), IDENTITY);
    expect(check).toMatchObject({ kind: 'fits', manifest: { extra: { note: 'x' } } });
  });

  it('tells each difference to another machine', async () => {
    await save();
    const check = checkSnapshot(folder.file('snap'), { ...IDENTITY, cpus: 2, qemu: '8.0' });
    expect(check).toEqual({
      kind: 'mismatch',
      differences: [
        { what: 'qemu', snapshot: '7.2.22 (fake)', machine: '8.0' },
        { what: 'cpus', snapshot: '4', machine: '2' },
      ],
    });
  });

  it('tells a missing and a damaged one', async () => {
    expect(checkSnapshot(folder.file('none'), IDENTITY)).toEqual({ kind: 'missing' });
    await save();
    writeFileSync(folder.file('snap/manifest.json'), '{"format": 99}');
    expect(checkSnapshot(folder.file('snap'), IDENTITY).kind).toBe('damaged');
    writeFileSync(folder.file('snap/manifest.json'), '{"form');
    expect(checkSnapshot(folder.file('snap'), IDENTITY).kind).toBe('damaged');
  });

  it('leaves the older snapshot alone when saving fails', async () => {
    await save();
    server.answer = (command) =>
      command === 'query-migrate' ? { return: { status: 'failed', 'error-desc': 'disk on fire' } } : { return: {} };
    const error = await failure(save(), 'NL_QMP_ERROR');
    expect(error.message).toContain('disk on fire');
    expect(checkSnapshot(folder.file('snap'), IDENTITY).kind).toBe('fits');
  });

  it('takes writable drives back after saving', async () => {
    const answer = server.answer;
    server.answer = (command, args) =>
      command === 'query-block' ? { return: [{ inserted: { ro: false } }] } : answer(command, args);
    await save();
    expect(server.received.slice(-2).map((command) => command.execute)).toEqual(['cont', 'stop']);
  });

  it('zeroes memory that was never touched when it was saved', async () => {
    await save();
    const fd = openSync(folder.file('ram'), 'r+');
    writeSync(fd, Buffer.alloc(200_000, 1), 0, 200_000, 300_000);
    restoreRam(ram, folder.file('snap'));
    expect(contents().every((byte) => byte === 0)).toBe(true);
  });
});
