import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RspConnection } from '../../../src/machine/rsp/connection.js';
import { Folder, failure } from '../fakes/folder.js';
import { FakeStub } from '../fakes/stub.js';

let folder: Folder;
let stub: FakeStub;
let connection: RspConnection;

beforeEach(async () => {
  folder = new Folder();
  stub = await FakeStub.listen(folder.file('gdb'));
  connection = await RspConnection.open({ kind: 'unix', path: stub.path }, { replyLimitMs: 200 });
});

afterEach(async () => {
  connection.close();
  await stub.close();
  folder[Symbol.dispose]();
});

describe('connection to a stub', () => {
  it('has many requests in flight and gives replies in order', async () => {
    stub.script = (packet) => ({ reply: `r${packet}` });
    const replies = Promise.all(Array.from({ length: 500 }, (_, i) => connection.request(`q${i}`)));
    expect(connection.inFlight).toBe(500);
    expect(await replies).toEqual(Array.from({ length: 500 }, (_, i) => `rq${i}`));
    expect(connection.inFlight).toBe(0);
  });

  it('rejects everything in flight when the socket goes in the middle', async () => {
    let count = 0;
    stub.script = () => (++count === 3 ? 'cut' : 'default');
    const all = await Promise.allSettled([1, 2, 3, 4, 5].map(() => connection.request('vCont?')));
    const codes = all.map((one) => (one.status === 'fulfilled' ? 'ok' : (one.reason as { code: string }).code));
    // The two replies before the cut may be lost with it, but nothing after it may be answered.
    expect(codes.slice(2)).toEqual(['NL_STUB_LOST', 'NL_STUB_LOST', 'NL_STUB_LOST']);
    await failure(connection.request('g'), 'NL_STUB_LOST');
  });

  it('asks again after one damaged reply', async () => {
    let damaged = 0;
    stub.script = () => (damaged++ === 0 ? 'damage' : 'default');
    expect(await connection.request('vCont?')).toBe('vCont;c;C;s;S');
  });

  it('gives up on a stub that only sends damaged replies', async () => {
    stub.script = () => 'damage';
    const error = failure(Promise.all([connection.request('g'), connection.request('g')]), 'NL_STUB_ERROR');
    expect((await error).message).toContain('damaged');
  });

  it('does not wait for ever for a reply', async () => {
    stub.script = () => 'silence';
    const error = await failure(connection.request('g'), 'NL_STUB_LOST');
    expect(error.message).toContain('no reply');
  });

  it('tells stop replies from replies, and console output from both', async () => {
    const stops: string[] = [];
    connection.onStopReply = (payload) => stops.push(payload);
    const command = `qRcmd,${Buffer.from('info lapic').toString('hex')}`;
    const waiting = connection.requestWithConsole(command);
    stub.stop('T05thread:02;');
    const reply = await waiting;
    expect(Buffer.from(reply.console, 'hex').toString()).toBe('ISR\t (none)\r\n');
    expect(reply.payload).toBe('OK');
    expect(stops).toEqual(['T05thread:02;']);
  });

  it('says that nobody listens', async () => {
    const error = await failure(RspConnection.open({ kind: 'unix', path: folder.file('none') }), 'NL_STUB_LOST');
    expect(error.fix).toContain('-gdb');
  });
});
