import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseStopReply, StubSession } from '../../../src/machine/rsp/session.js';
import { Folder, failure, sleep } from '../fakes/folder.js';
import { FakeStub } from '../fakes/stub.js';

let folder: Folder;
let stub: FakeStub;
const sessions: StubSession[] = [];
const open = async (): Promise<StubSession> => {
  const session = await StubSession.open({ kind: 'unix', path: stub.path }, { busyLimitMs: 100 });
  sessions.push(session);
  return session;
};

beforeEach(async () => {
  folder = new Folder();
  stub = await FakeStub.listen(folder.file('gdb'), 4);
});

afterEach(async () => {
  for (const session of sessions.splice(0)) session.close();
  await stub.close();
  folder[Symbol.dispose]();
});

describe('session with a stub', () => {
  it('says that another debugger holds a stub that accepts and does not answer', async () => {
    stub.deaf = true;
    const error = await failure(open(), 'NL_STUB_BUSY');
    expect(error.fix).toContain('other debugger');
  });

  it('knows whether connecting stopped a running machine', async () => {
    expect((await open()).wasRunning).toBe(false);
    await stub.close();
    stub = await FakeStub.listen(folder.file('gdb2'));
    stub.running = true;
    expect((await open()).wasRunning).toBe(true);
  });

  it('refuses a stub that cannot run single CPUs', async () => {
    stub.script = (packet) => (packet === 'vCont?' ? { reply: '' } : 'default');
    await failure(open(), 'NL_STUB_ERROR');
  });

  it('reads the registers of each CPU', async () => {
    for (const [i, cpu] of stub.cpus.entries())
      Object.assign(cpu, { rip: 0xffff_82d0_4020_0000n + BigInt(i), cs: 0xe008, cr3: 0x1000n });
    const session = await open();
    const all = await session.allRegisters(4);
    expect(all.map((one) => one.rip & 0xfn)).toEqual([0n, 1n, 2n, 3n]);
    expect(all[3]).toEqual(stub.cpus[3]);
    expect(await session.programCounter(2)).toBe(0xffff_82d0_4020_0002n);
  });

  it('writes segments before all else', async () => {
    const session = await open();
    await session.writeRegisters(new Map([[1, { rip: 5n, rsp: 6n, ss: 0, cs: 0xe008, fsBase: 9n, fs: 3 }]]));
    const order = stub.received.filter((packet) => packet.startsWith('P')).map((packet) => packet.split('=')[0]);
    expect(order.slice(0, 3)).toEqual(['P12', 'P13', 'P16']);
    expect(stub.cpus[1]).toMatchObject({ rip: 5n, rsp: 6n, cs: 0xe008, fsBase: 9n, fs: 3 });
    expect(stub.cpus[0]!.rip).toBe(0n);
  });

  it('says which register the stub refused', async () => {
    const session = await open();
    stub.script = (packet) => (packet.startsWith('P10=') ? { reply: 'E22' } : 'default');
    const error = await failure(session.writeRegisters(new Map([[2, { rip: 1n }]])), 'NL_STUB_ERROR');
    expect(error.message).toContain('CPU 2');
  });

  it('cuts long memory accesses to what a packet holds', async () => {
    const session = await open();
    const bytes = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);
    await session.writePhysical(0x20_0f00, bytes);
    expect(new Uint8Array(await session.readPhysical(0x20_0f00, 5000))).toEqual(bytes);
    expect(Math.max(...stub.received.map((packet) => packet.length))).toBeLessThan(4096);
  });

  it('switches physical mode on and off around a physical write', async () => {
    const session = await open();
    await session.writePhysical(0xfee0_1000, Uint8Array.of(0, 4, 0, 0));
    expect(stub.received.slice(-3)).toEqual(['Qqemu.PhyMemMode:1', 'Mfee01000,4:00040000', 'Qqemu.PhyMemMode:0']);
    expect(stub.physicalMode).toBe(false);
  });

  it('never sends a request while the machine runs, and needs no ack that could stop it', async () => {
    const session = await open();
    const requests = Promise.all([session.registers(0), session.registers(1)]);
    session.resume({ kind: 'all' });
    await requests;
    await failure(() => session.registers(0), 'NL_INTERNAL');
    await sleep(20);
    expect(stub.running).toBe(true);
    expect(stub.wrongStops).toBe(0);
    const stopped = new Promise((resolve) => {
      session.onStop = resolve;
    });
    session.interrupt();
    expect(await stopped).toEqual({ kind: 'paused' });
    expect(stub.wrongStops).toBe(0);
  });

  it('chooses the CPU anew after a stop, which moves the stub to another one', async () => {
    stub.cpus.forEach((cpu, i) => {
      cpu.rax = BigInt(i);
    });
    const session = await open();
    await session.registers(1);
    session.resume({ kind: 'all' });
    const stopped = new Promise((resolve) => {
      session.onStop = resolve;
    });
    await sleep(5);
    stub.stop('T05thread:04;');
    await stopped;
    expect((await session.registers(1)).rax).toBe(1n);
  });
});

describe('stop replies', () => {
  it.each([
    ['T05thread:02;', { kind: 'breakpoint', cpu: 1 }],
    ['T05thread:p01.0a;', { kind: 'breakpoint', cpu: 9 }],
    ['T05thread:01;watch:ff;', { kind: 'breakpoint', cpu: 0, watchAddress: 0xffn }],
    ['T02thread:01;', { kind: 'paused' }],
    ['T03thread:01;', { kind: 'shutdown' }],
    ['T17thread:01;', { kind: 'io-error' }],
    ['T0ethread:01;', { kind: 'watchdog' }],
    ['T06thread:01;', { kind: 'internal-error' }],
    ['W00', { kind: 'exited' }],
    ['T0bthread:01;', { kind: 'other', text: 'T0bthread:01;' }],
  ])('%s', (text, stop) => {
    expect(parseStopReply(text)).toEqual(stop);
  });
});
