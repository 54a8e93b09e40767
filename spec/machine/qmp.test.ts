import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Qmp } from '../../src/machine/qmp.js';
import { Folder, failure, sleep } from './fakes/folder.js';
import { FakeQmp } from './fakes/qmp.js';

let folder: Folder;
let server: FakeQmp;
let qmp: Qmp | undefined;
const open = async (): Promise<Qmp> => {
  qmp = await Qmp.open(server.path, { greetingLimitMs: 100 });
  return qmp;
};

beforeEach(async () => {
  folder = new Folder();
  server = await FakeQmp.listen(folder.file('qmp'));
});

afterEach(async () => {
  qmp?.close();
  qmp = undefined;
  await server.close();
  folder[Symbol.dispose]();
});

describe('QMP client', () => {
  it('negotiates and knows the version', async () => {
    expect((await open()).version).toEqual({ major: 7, minor: 2, micro: 22, package: 'fake' });
    expect(server.received[0]?.execute).toBe('qmp_capabilities');
  });

  it('matches answers to commands', async () => {
    server.answer = (command) => ({ return: command });
    const client = await open();
    const names = Array.from({ length: 50 }, (_, i) => `query-${i}`);
    expect(await Promise.all(names.map((name) => client.execute(name)))).toEqual(names);
  });

  it('tells what QEMU refused and why', async () => {
    server.answer = () => ({ error: { class: 'GenericError', desc: 'Device not found' } });
    const error = await failure((await open()).execute('eject'), 'NL_QMP_ERROR');
    expect(error.message).toBe('QEMU refused "eject": Device not found');
  });

  it('rejects what is in flight when the socket goes in the middle of a command', async () => {
    server.answer = (command) => (command === 'second' ? 'cut' : 'silence');
    const client = await open();
    let told = 0;
    client.onLost = () => told++;
    const both = [client.execute('first'), client.execute('second')];
    for (const one of both) await failure(one, 'NL_QMP_LOST');
    await failure(client.execute('third'), 'NL_QMP_LOST');
    expect(told).toBe(1);
  });

  it('says that another client holds a socket that does not greet', async () => {
    server.greeting = undefined;
    const error = await failure(open(), 'NL_QMP_LOST');
    expect(error.fix).toContain('other QMP client');
  });

  it('says that nobody listens', async () => {
    await failure(Qmp.open(folder.file('none')), 'NL_QMP_LOST');
  });

  it('refuses what is not QMP', async () => {
    server.answer = () => 'garbage';
    await failure((await open()).execute('query-status'), 'NL_QMP_ERROR');
  });

  it('gives events to all that listen, even when they come in pieces', async () => {
    const client = await open();
    const seen: string[] = [];
    const end = client.subscribe((event) => seen.push(event.name));
    const next = client.waitFor((event) => event.name === 'RESET', 500, 'a reset');
    server.raw('{"event": "ST');
    await sleep(5);
    server.raw('OP", "data": {}}\n{"event": "RESET", "data": {"reason": "guest-reset"}}\n');
    expect((await next).data.reason).toBe('guest-reset');
    end();
    server.event('RESUME');
    await sleep(5);
    expect(seen).toEqual(['STOP', 'RESET']);
  });

  it('does not wait for ever for an event', async () => {
    await failure(
      (await open()).waitFor(() => true, 20, 'a stop'),
      'NL_TIMEOUT',
    );
  });

  it('uses the reason that its owner knows for a loss', async () => {
    const { NinelivesError } = await import('../../src/common/errors.js');
    qmp = await Qmp.open(server.path, { explainLoss: () => new NinelivesError('NL_QEMU_EXITED', 'killed') });
    const waiting = failure(qmp.execute('x'), 'NL_QEMU_EXITED');
    server.answer = () => 'silence';
    server.cut();
    await waiting;
  });
});
