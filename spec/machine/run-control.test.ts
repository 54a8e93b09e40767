import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NinelivesError } from '../../src/common/errors.js';
import { StubSession } from '../../src/machine/rsp/session.js';
import { RunControl } from '../../src/machine/run-control.js';
import type { Stop } from '../../src/machine/stop.js';
import { Folder, failure, sleep } from './fakes/folder.js';
import { FakeStub } from './fakes/stub.js';

const HERE = 0xffff_82d0_4020_1000n;
const THERE = 0xffff_82d0_4020_2000n;

let folder: Folder;
let stub: FakeStub;
let session: StubSession;
let control: RunControl;
let stops: Stop[];

beforeEach(async () => {
  folder = new Folder();
  stub = await FakeStub.listen(folder.file('gdb'), 4);
  session = await StubSession.open({ kind: 'unix', path: stub.path });
  control = new RunControl(session);
  session.onLost = (error) => control.fail(error);
  stops = [];
  control.onStop = (stop) => stops.push(stop);
});

afterEach(async () => {
  session.close();
  await stub.close();
  folder[Symbol.dispose]();
});

/** CPU `cpu` hits the breakpoint it runs into, soon after it was let run. */
const hitSoon = (cpu: number, address: bigint): void => {
  setTimeout(() => {
    if (!stub.running) {
      hitSoon(cpu, address);
      return;
    }
    stub.cpus[cpu]!.rip = address;
    stub.stop(`T05thread:0${cpu + 1};`);
  }, 2);
};

describe('run control', () => {
  it('freezes a running machine, and knows when it already stands', async () => {
    await control.resume();
    expect(control.state).toBe('running');
    const stop = await control.freeze();
    expect(stop.kind).toBe('paused');
    expect(control.state).toBe('frozen');
    expect(await control.freeze()).toBe(stop);
    expect(stops).toEqual([stop]);
  });

  it('lets register writes leave with the resumption, without waiting for their answers', async () => {
    const written = session.writeRegisters(new Map([[1, { rip: THERE }]]));
    await control.resume();
    expect(control.state).toBe('running');
    await written;
    expect(stub.cpus[1]!.rip).toBe(THERE);
  });

  it('asks whoever captures at stops where a CPU stands, but not when a single CPU was run', async () => {
    const asked: number[] = [];
    control.addressOf = async (cpu) => {
      asked.push(cpu);
      return session.programCounter(cpu);
    };
    stub.onResume = (packet) => {
      if (packet.startsWith('vCont;s')) hitSoon(2, THERE);
    };
    await control.stepOne(2);
    expect(asked).toEqual([]);
    await control.setBreakpoints([HERE]);
    await control.resume();
    hitSoon(3, HERE);
    expect(await control.waitForStop(1000)).toMatchObject({ kind: 'breakpoint', cpu: 3, address: HERE });
    expect(asked).toEqual([3]);
  });

  it('stands at a breakpoint although what was to tell where had an error of its own', async () => {
    control.addressOf = () => Promise.reject(new Error('a capture failed'));
    await control.setBreakpoints([HERE]);
    await control.resume();
    hitSoon(3, HERE);
    expect(await control.waitForStop(1000)).toMatchObject({ kind: 'breakpoint', cpu: 3, address: HERE });
  });

  it('gives the breakpoint stop to whoever wanted to freeze at the same moment', async () => {
    await control.setBreakpoints([HERE]);
    await control.resume();
    await sleep(5);
    stub.cpus[2]!.rip = HERE;
    stub.stop('T05thread:03;');
    expect(await control.freeze()).toMatchObject({ kind: 'breakpoint', cpu: 2, address: HERE });
    await sleep(10);
    expect(stub.wrongStops).toBe(0);
    expect(stops).toHaveLength(1);
  });

  it('runs some CPUs while the others stand, and tells nobody else of the stop', async () => {
    const packets: string[] = [];
    stub.onResume = (packet) => {
      packets.push(packet);
      hitSoon(3, HERE);
    };
    expect(await control.runThese([0, 2, 3], 500)).toMatchObject({ kind: 'breakpoint', cpu: 3 });
    expect(packets).toEqual(['vCont;c:1;c:3;c:4']);
    stub.onResume = () => {};
    expect((await control.runThese([1], 20)).kind).toBe('paused');
    expect(control.state).toBe('frozen');
    expect(stops).toEqual([]);
  });

  it('steps off a breakpoint before it resumes', async () => {
    await control.setBreakpoints([HERE, THERE]);
    await control.resume();
    hitSoon(1, HERE);
    await control.waitForStop(500);
    stub.received.length = 0;
    stub.onResume = (packet) => {
      if (packet.startsWith('vCont;s')) hitSoon(1, HERE + 1n);
    };
    await control.resume();
    await sleep(10);
    const told = stub.received.filter((packet) => /^[zZv]/.test(packet));
    expect(told).toEqual([`z0,${HERE.toString(16)},1`, 'vCont;s:2', `Z0,${HERE.toString(16)},1`, 'vCont;c']);
    expect(stops).toHaveLength(1);
  });

  it('does not step a CPU whose program counter was moved away', async () => {
    await control.setBreakpoints([HERE]);
    await control.resume();
    hitSoon(0, HERE);
    await control.waitForStop(500);
    control.noteWrites(new Map([[0, { rip: THERE }]]));
    stub.received.length = 0;
    await control.resume();
    await sleep(5);
    expect(stub.received).toEqual(['vCont;c']);
  });

  it('runs one CPU up to an address and takes its breakpoint away again', async () => {
    stub.onResume = () => hitSoon(3, THERE);
    const stop = await control.runOne(3, { until: THERE, timeoutMs: 500 });
    expect(stop).toMatchObject({ kind: 'breakpoint', cpu: 3, address: THERE });
    expect(stub.received).toContain('vCont;c:4');
    expect(stub.breakpoints.size).toBe(0);
    expect(control.state).toBe('frozen');
    expect(stops).toEqual([]);
  });

  it('stops a CPU that does not get there in time', async () => {
    const stop = await control.runOne(1, { until: THERE, timeoutMs: 20 });
    expect(stop.kind).toBe('paused');
    expect(stub.breakpoints.size).toBe(0);
  });

  it('says why a machine that was shut down cannot go on', async () => {
    await control.resume();
    control.shutdownReason = 'guest-reset';
    await sleep(2);
    stub.stop('T03thread:01;');
    expect(await control.waitForStop(500)).toMatchObject({ kind: 'reset', reason: 'guest-reset' });
    await failure(control.resume(), 'NL_STUB_ERROR');
  });

  it('waits a moment for the reason of a shutdown, which comes over another socket', async () => {
    await control.resume();
    await sleep(2);
    stub.stop('T03thread:01;');
    const waiting = control.waitForStop(500);
    control.shutdownReason = 'guest-shutdown';
    expect(await waiting).toMatchObject({ kind: 'shutdown', reason: 'guest-shutdown' });
  });

  it('tells every waiter that the link is gone', async () => {
    await control.resume();
    await sleep(2);
    const waiters = [control.waitForStop(), control.waitForStop(5000), control.freeze()];
    stub.cut();
    for (const waiter of waiters) await failure(waiter, 'NL_STUB_LOST');
    expect(control.state).toBe('ended');
    await failure(control.resume(), 'NL_STUB_LOST');
  });

  it('tells a run of one CPU that the link is gone', async () => {
    stub.onResume = () => stub.cut();
    await failure(control.runOne(0, { until: HERE, timeoutMs: 1000 }), 'NL_STUB_LOST');
  });

  it('keeps the first reason', async () => {
    control.fail(new NinelivesError('NL_QEMU_EXITED', 'killed'));
    session.close();
    await failure(control.freeze(), 'NL_QEMU_EXITED');
  });

  it('does not wait for ever', async () => {
    await control.resume();
    await failure(control.waitForStop(10), 'NL_TIMEOUT');
  });
});
