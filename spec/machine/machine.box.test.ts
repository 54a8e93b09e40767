/** The machine with a real QEMU and a guest of one sector. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Machine } from '../../src/machine/machine.js';
import { isGone } from '../../src/machine/proc.js';
import { gdbPathIn, type MachineSpec, qmpPathIn } from '../../src/machine/spec.js';
import { translate } from '../../src/x86/paging.js';
import { Folder, failure, sleep } from './fakes/folder.js';
import { bootImage, GUEST } from './fakes/guest.js';

let folder: Folder;
let spec: MachineSpec;

beforeAll(() => {
  folder = new Folder();
  writeFileSync(folder.file('guest.img'), bootImage());
  spec = {
    cpus: 2,
    memoryMiB: 64,
    args: ['-drive', `file=${folder.file('guest.img')},format=raw,if=floppy,readonly=on`, '-net', 'none'],
    consoles: ['com1'],
    lifetime: 'ours',
    imageHash: 'one sector',
  };
});

afterAll(() => folder[Symbol.dispose]());

const read32 = (machine: Machine, address: number): number => Buffer.from(machine.ram.read(address, 4)).readUInt32LE();
const counter = (machine: Machine): number => read32(machine, GUEST.counter);
const otherCounter = (machine: Machine): number => read32(machine, GUEST.otherCounter);

/** Lets the guest boot; the machine is frozen afterwards with both CPUs in their loops. */
async function boot(machine: Machine): Promise<void> {
  await machine.resume();
  await eventually(() => counter(machine) !== 0 && otherCounter(machine) !== 0, 'both CPUs count');
  await machine.freeze();
}

/** Lets the guest run until CPU 0 has counted on (a busy host may take its time), then freezes it. */
async function countOn(machine: Machine): Promise<void> {
  const before = counter(machine);
  await machine.resume();
  await eventually(() => counter(machine) !== before, 'the guest counts on');
  await machine.freeze();
}

async function eventually(holds: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !holds(); waited++) {
    if (waited > 500) throw new Error(`not true in 10 s: ${what}`);
    await sleep(20);
  }
}

const filesOf = (pid: number): string[] =>
  readdirSync('/dev/shm').filter((name) => name.startsWith(`ninelives-${pid}-`));

describe('a running guest', () => {
  let machine: Machine;

  beforeAll(async () => {
    machine = await Machine.start(spec);
    await boot(machine);
  });

  afterAll(async () => {
    await machine[Symbol.asyncDispose]();
  });

  it('is known: CPUs, threads, RAM', () => {
    expect(machine.cpuCount).toBe(2);
    expect(new Set(machine.threadIds).size).toBe(2);
    expect(machine.ram.kind).toBe('mapped');
    expect(machine.ram.size).toBe(64 * 2 ** 20);
  });

  it('stands while it is frozen and goes on when it is resumed; RAM shows its stores', async () => {
    const before = [counter(machine), otherCounter(machine)];
    await sleep(30);
    expect([counter(machine), otherCounter(machine)]).toEqual(before);
    await machine.resume();
    expect(machine.state).toBe('running');
    await eventually(() => counter(machine) > before[0]! && otherCounter(machine) > before[1]!, 'both CPUs count on');
    const stop = await machine.freeze();
    expect(stop.kind).toBe('paused');
  });

  it('shows the registers of CPUs in 64-bit and in 16-bit code', async () => {
    const [first, second] = await machine.allRegisters();
    expect([GUEST.loop, GUEST.jump]).toContain(first!.rip);
    expect(first!.cs).toBe(0x18);
    expect(first!.cr3).toBe(GUEST.pageTable);
    expect(first!.efer & 0x500n).toBe(0x500n);
    expect(second!.cs).toBe(0x800);
    expect(second!.rip).toBeLessThan(0x10n);
    expect(second!.cr0 & 1n).toBe(0n);
  });

  it('walks the page tables of the guest', async () => {
    const { cr3 } = await machine.registers(0);
    expect(translate(machine.ram, cr3, GUEST.loop)).toMatchObject({
      physical: Number(GUEST.loop),
      pageSize: 2 * 2 ** 20,
      writable: true,
    });
    expect(translate(machine.ram, cr3, 0x200000n)).toBeUndefined();
  });

  it('captures a view', async () => {
    const view = await machine.capture();
    expect(view.cpuCount).toBe(2);
    expect(view.lapic(1)).toMatchObject({ id: 1, inService: [] });
    expect(view.registers(0).cs).toBe(0x18);
    expect(Buffer.from(view.page(7)!).readUInt32LE()).toBe(counter(machine));
    expect((await machine.hiddenRegisters(0)).gdt.limit).toBe(31);
    expect(await machine.ioApic()).toHaveLength(24);
  });

  it('stops at a breakpoint each time round, exactly once', async () => {
    await machine.setBreakpoints([GUEST.jump]);
    await machine.resume();
    expect(await machine.waitForStop(2000)).toMatchObject({ kind: 'breakpoint', cpu: 0, address: GUEST.jump });
    for (let round = 0; round < 20; round++) {
      const before = counter(machine);
      await machine.resume();
      expect(await machine.waitForStop(2000)).toMatchObject({ kind: 'breakpoint', cpu: 0 });
      expect(counter(machine)).toBe(before + 1);
    }
    await machine.clearBreakpoints();
    await countOn(machine);
    expect(machine.lastStop.kind).toBe('paused');
  });

  it('runs one CPU while the other stands', async () => {
    const before = otherCounter(machine);
    expect((await machine.runOne(0, { timeoutMs: 40 })).kind).toBe('paused');
    expect(otherCounter(machine)).toBe(before);
    const first = counter(machine);
    expect((await machine.runOne(1, { timeoutMs: 400 })).kind).toBe('paused');
    expect(otherCounter(machine)).toBeGreaterThan(before);
    expect(counter(machine)).toBe(first);
  });

  it('calls a function of the guest on one CPU', async () => {
    const saved = await machine.registers(0);
    machine.ram.write(0x6ff8, Buffer.from('9c7c000000000000', 'hex'));
    await machine.writeRegisters(0, { rip: GUEST.double, rdi: 21n, rsp: 0x6ff8n });
    const stop = await machine.runOne(0, { until: GUEST.loop, timeoutMs: 1000 });
    expect(stop).toMatchObject({ kind: 'breakpoint', cpu: 0, address: GUEST.loop });
    expect((await machine.registers(0)).rax).toBe(42n);
    await machine.writeAllRegisters(new Map([[0, saved]]));
    expect(await machine.registers(0)).toEqual(saved);
  });

  it('steps one instruction', async () => {
    const { rip } = await machine.registers(0);
    await machine.stepOne(0);
    expect((await machine.registers(0)).rip).toBe(rip === GUEST.loop ? GUEST.jump : GUEST.loop);
  });

  it('changes text so that the guest executes the new one', async () => {
    // "incl 0x7000" becomes "incl 0x7010".
    await machine.writePhysicalStub(Number(GUEST.loop) + 3, Uint8Array.of(0x10));
    await machine.resume();
    await eventually(() => read32(machine, 0x7010) > 0, 'the changed instruction is executed');
    await machine.freeze();
    await machine.writePhysicalStub(Number(GUEST.loop) + 3, Uint8Array.of(0x00));
  });

  it('interrupts a CPU by an MSI', async () => {
    await machine.writePhysicalStub(0xfee0_0000, Uint8Array.of(0x41, 0, 0, 0));
    // The guest has interrupts off and its interrupt controller enabled by firmware: the vector stays requested.
    expect((await machine.lapics())[0]!.requested).toContain(0x41);
  });

  it('refuses a second supervisor', async () => {
    const error = await failure(Machine.attach({ qmpPath: qmpPathIn(machine.runtimeDir!) }), 'NL_QMP_LOST');
    expect(error.fix).toContain('other QMP client');
  });

  it('stops with the reason when the guest resets', async () => {
    const events: string[] = [];
    machine.onEvent((event) => events.push(event.kind));
    await machine.writePhysicalStub(Number(GUEST.loop), Uint8Array.of(0x0f, 0x0b)); // ud2, with no interrupt table: triple fault
    await machine.resume();
    expect(await machine.waitForStop(3000)).toMatchObject({ kind: 'reset', reason: 'guest-reset' });
    expect(events).toContain('shutdown');
    await failure(machine.resume(), 'NL_STUB_ERROR');
    expect((await machine.registers(0)).cs).toBe(0x18);
  });
});

describe('snapshots', () => {
  it('bring CPUs, devices and RAM back, in this machine and in a new one', async () => {
    const dir = folder.file('snapshot');
    const machine = await Machine.start(spec);
    try {
      await boot(machine);
      const saved = { counts: [counter(machine), otherCounter(machine)], registers: await machine.allRegisters() };
      await machine.saveSnapshot(dir, { why: 'test' });
      const check = async (restored: Machine): Promise<void> => {
        expect([counter(restored), otherCounter(restored)]).toEqual(saved.counts);
        expect(await restored.allRegisters()).toEqual(saved.registers);
        await countOn(restored);
      };
      await check(machine);
      for (let round = 0; round < 3; round++) {
        machine.ram.write(0x200000, Buffer.alloc(300_000, round + 1));
        const result = await machine.restoreSnapshot(dir);
        expect(result).toMatchObject({ kind: 'restored', manifest: { extra: { why: 'test' } } });
        expect(machine.ram.read(0x200000, 300_000).every((byte) => byte === 0)).toBe(true);
        await check(machine);
      }
      await machine.end();
      const other = await Machine.startFromSnapshot(spec, dir);
      if (other.kind !== 'restored') throw new Error(other.kind);
      await check(other.machine);
      await other.machine.end();
    } finally {
      await machine.end();
    }
    expect(await Machine.startFromSnapshot({ ...spec, imageHash: 'another' }, dir)).toMatchObject({
      kind: 'mismatch',
      differences: [{ what: 'imageHash', snapshot: 'one sector', machine: 'another' }],
    });
    expect(await Machine.startFromSnapshot(spec, folder.file('none'))).toEqual({ kind: 'missing' });
  });
});

describe('a snapshot of a machine that stands at a breakpoint', () => {
  it('can be restored as any other', async () => {
    const machine = await Machine.start(spec);
    try {
      await boot(machine);
      await machine.setBreakpoints([GUEST.jump]);
      await machine.resume();
      expect(await machine.waitForStop(3000)).toMatchObject({ kind: 'breakpoint' });
      const dir = folder.file('at-breakpoint');
      await machine.saveSnapshot(dir);
      expect(await machine.restoreSnapshot(dir)).toMatchObject({ kind: 'restored' });
      expect((await machine.registers(0)).rip).toBe(BigInt(GUEST.jump));
      await countOn(machine);
    } finally {
      await machine.end();
    }
  });
});

describe('the end', () => {
  it('is told to every waiter when QEMU is killed, and leaves nothing behind', async () => {
    const machine = await Machine.start(spec);
    const { pid, runtimeDir } = machine;
    await machine.resume();
    const told = new Promise((resolve) => machine.onEvent((event) => event.kind === 'ended' && resolve(event)));
    const waiting = [machine.waitForStop(), machine.qmp.waitFor(() => false, 60_000, 'nothing')];
    process.kill(pid, 'SIGKILL');
    for (const waiter of waiting) await failure(waiter, 'NL_QEMU_EXITED');
    await told;
    expect(machine.state).toBe('ended');
    await failure(machine.freeze(), 'NL_QEMU_EXITED');
    await failure(machine.registers(0), 'NL_QEMU_EXITED');
    await machine[Symbol.asyncDispose]();
    expect(existsSync(runtimeDir!)).toBe(false);
    expect(filesOf(process.pid)).toEqual([]);
  });

  it('of the supervisor by SIGKILL is the end of QEMU', async () => {
    // The parent of QEMU is killed here, as a supervisor may be: a shell takes its place.
    const qemu = 'setpriv --pdeathsig KILL qemu-system-x86_64 -display none -S -pidfile "$0" & wait';
    const parent = spawn('sh', ['-c', qemu, folder.file('pid')], { stdio: 'ignore' });
    const pid = await pidIn(folder.file('pid'));
    expect(isGone(pid)).toBe(false);
    parent.kill('SIGKILL');
    for (let waited = 0; !isGone(pid) && waited < 100; waited++) await sleep(20);
    expect(isGone(pid)).toBe(true);
  });

  it('does not come for a detached machine, which can be found again', async () => {
    const runtimeDir = folder.file('box');
    const first = await Machine.start({ ...spec, lifetime: 'detached', runtimeDir });
    const { pid } = first;
    try {
      await boot(first);
      await first.setBreakpoints([GUEST.jump]);
      await first[Symbol.asyncDispose]();
      expect(isGone(pid)).toBe(false);
      const second = await Machine.attach({ qmpPath: qmpPathIn(runtimeDir) });
      expect(second.wasRunning).toBe(true);
      expect(second.ram.kind).toBe('mapped');
      await countOn(second);
      expect(second.lastStop.kind).toBe('paused');
      await failure(second.saveSnapshot(folder.file('no')), 'NL_USAGE');
      await failure(Machine.start({ ...spec, lifetime: 'detached', runtimeDir }), 'NL_ADDRESS_IN_USE');
      await second.end();
      expect(isGone(pid)).toBe(true);
      expect(filesOf(process.pid)).toEqual([]);
    } finally {
      if (!isGone(pid)) process.kill(pid, 'SIGKILL'); // Nothing else ends a detached one when this test fails.
    }
  });
});

describe('a machine that someone else started', () => {
  let child: ChildProcess;
  const dir = (): string => folder.path;
  const start = async (...more: string[]): Promise<void> => {
    for (const stale of [qmpPathIn(dir()), gdbPathIn(dir())]) rmSync(stale, { force: true });
    const args = ['-nodefaults', '-display', 'none', '-m', '64', '-smp', '2', ...spec.args, ...more];
    child = spawn(
      'setpriv',
      ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...args, '-qmp', `unix:${qmpPathIn(dir())},server=on,wait=off`],
      {
        stdio: 'ignore',
      },
    );
    const last = more.length === 0 ? qmpPathIn(dir()) : gdbPathIn(dir());
    for (let waited = 0; !existsSync(last) && waited < 200; waited++) await sleep(20);
  };
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    for (let waited = 0; child.pid !== undefined && !isGone(child.pid) && waited < 100; waited++) await sleep(20);
  };

  it('is read through its process when its RAM is not shared; its stub is switched on and off', async () => {
    await start();
    try {
      for (let round = 0; round < 2; round++) {
        const machine = await Machine.attach({ qmpPath: qmpPathIn(dir()) });
        expect(machine.ram.kind).toBe('process');
        await boot(machine);
        await countOn(machine);
        machine.ram.write(GUEST.counter, new Uint8Array(4));
        expect((await machine.capture()).page(7)!.subarray(0, 4)).toEqual(Buffer.alloc(4));
        await machine.detach();
      }
    } finally {
      await stop();
    }
  });

  it('is left running without our breakpoints when the QMP socket goes in the middle', async () => {
    await start();
    try {
      const proxy = await proxyTo(qmpPathIn(dir()), folder.file('proxy.sock'));
      const machine = await Machine.attach({ qmpPath: folder.file('proxy.sock') });
      await boot(machine);
      await machine.setBreakpoints([GUEST.jump]);
      const told = new Promise((resolve) => machine.onEvent((event) => event.kind === 'ended' && resolve(event)));
      proxy.cut();
      await told;
      await failure(machine.registers(0), 'NL_QMP_LOST');
      await machine.detach();
      const again = await Machine.attach({ qmpPath: qmpPathIn(dir()) });
      await countOn(again);
      expect(again.lastStop.kind).toBe('paused');
      await again.detach();
    } finally {
      await stop();
    }
  });

  it('is refused while another debugger holds its stub', async () => {
    await start('-chardev', `socket,path=${gdbPathIn(dir())},server=on,wait=off,id=gdb`, '-gdb', 'chardev:gdb');
    const { StubSession } = await import('../../src/machine/rsp/session.js');
    const other = await StubSession.open({ kind: 'unix', path: gdbPathIn(dir()) });
    try {
      await failure(Machine.attach({ qmpPath: qmpPathIn(dir()) }), 'NL_STUB_BUSY');
      await failure(StubSession.open({ kind: 'unix', path: gdbPathIn(dir()) }, { busyLimitMs: 200 }), 'NL_STUB_BUSY');
      other.close();
      await sleep(50);
      const machine = await Machine.attach({ qmpPath: qmpPathIn(dir()), gdb: gdbPathIn(dir()) });
      await machine.detach();
    } finally {
      other.close();
      await stop();
    }
  });
});

/** Passes a socket on, until it is cut. */
async function proxyTo(target: string, path: string): Promise<{ cut(): void }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    const other = connect({ path: target });
    for (const one of [socket, other]) {
      one.on('error', () => {});
      sockets.push(one);
    }
    socket.pipe(other).pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    cut() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

async function pidIn(path: string): Promise<number> {
  const { readFileSync } = await import('node:fs');
  for (let waited = 0; waited < 200; waited++) {
    const text = existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
    if (text !== '') return Number(text);
    await sleep(20);
  }
  throw new Error(`no process id in ${path}`);
}
