import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Qmp } from '../../src/machine/qmp.js';
import { revive } from '../../src/machine/revive.js';
import { Folder } from './fakes/folder.js';
import { FakeQmp, type QmpAnswer } from './fakes/qmp.js';

let folder: Folder;
let server: FakeQmp;
let qmp: Qmp;
const answers = new Map<string, QmpAnswer>();

beforeEach(async () => {
  folder = new Folder();
  server = await FakeQmp.listen(folder.file('qmp'));
  answers.clear();
  answers.set('query-block', { return: [] });
  answers.set('query-migrate', { return: { status: 'completed' } });
  server.answer = (command) => answers.get(command) ?? { return: {} };
  qmp = await Qmp.open(server.path);
});

afterEach(async () => {
  qmp.close();
  await server.close();
  folder[Symbol.dispose]();
});

const asked = (): string[] => server.received.map(({ execute }) => execute);

describe('a machine that stands for a reset', () => {
  it('is migrated to nowhere, without its RAM, and can go on', async () => {
    expect(await revive(qmp)).toBe(true);
    const migration = server.received.find(({ execute }) => execute === 'migrate');
    expect(migration?.arguments).toEqual({ uri: 'exec:cat > /dev/null' });
    expect(asked().indexOf('migrate-set-capabilities')).toBeLessThan(asked().indexOf('migrate'));
  });

  it('stays as it is when it has a drive that is written to', async () => {
    answers.set('query-block', { return: [{ inserted: { ro: false } }] });
    expect(await revive(qmp)).toBe(false);
    expect(asked()).not.toContain('migrate');
  });

  it('says so when QEMU does not migrate it', async () => {
    answers.set('query-migrate', { return: { status: 'failed', 'error-desc': 'no' } });
    await expect(revive(qmp)).rejects.toMatchObject({ code: 'NL_QMP_ERROR' });
  });
});
