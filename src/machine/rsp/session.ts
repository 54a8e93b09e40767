/**
 * The commands of a debugger stub, over one connection. CPUs are counted from 0 here; the stub's threads from 1.
 *
 * What has to be minded with QEMU 7.2 (gdbstub/gdbstub.c): connecting stops the machine, and if it ran, a stop reply comes
 * before the first reply; `?` removes all breakpoints and is never sent; any packet sent while the machine runs stops it
 * and is lost; a stop reply moves the stub's selected CPU; `P` works only after target.xml was read on this connection.
 */
import { NinelivesError } from '../../common/errors.js';
import type { CpuRegisters } from '../../x86/registers.js';
import { parseRegisters, REGISTER_NUMBERS, registerWrites } from '../registers.js';
import { type ConnectionOptions, type Reply, RspConnection, type StubAddress, showAddress } from './connection.js';

/** Why the stub says the machine stopped. */
export type StopReply =
  | { readonly kind: 'breakpoint'; readonly cpu: number; readonly watchAddress?: bigint }
  | { readonly kind: 'paused' }
  | { readonly kind: 'shutdown' }
  | { readonly kind: 'io-error' }
  | { readonly kind: 'watchdog' }
  | { readonly kind: 'internal-error' }
  | { readonly kind: 'exited' }
  | { readonly kind: 'other'; readonly text: string };

/** Reads a stop reply (`T05thread:02;` and the like). Signal numbers are QEMU's: gdbstub.c, gdb_vm_state_change. */
export function parseStopReply(payload: string): StopReply {
  if (payload[0] === 'W' || payload[0] === 'X') return { kind: 'exited' };
  const signal = Number.parseInt(payload.slice(1, 3), 16);
  const thread = /thread:(?:p[0-9a-f]+\.)?([0-9a-f]+);/i.exec(payload)?.[1];
  const cpu = thread === undefined ? 0 : Number.parseInt(thread, 16) - 1;
  const watch = /[ra]?watch:([0-9a-f]+);/i.exec(payload)?.[1];
  switch (signal) {
    case 0x05:
      return watch === undefined
        ? { kind: 'breakpoint', cpu }
        : { kind: 'breakpoint', cpu, watchAddress: BigInt(`0x${watch}`) };
    case 0x02:
      return { kind: 'paused' };
    case 0x03:
      return { kind: 'shutdown' };
    case 0x17:
      return { kind: 'io-error' };
    case 0x0e:
      return { kind: 'watchdog' };
    case 0x06:
      return { kind: 'internal-error' };
    default:
      return { kind: 'other', text: payload };
  }
}

export interface SessionOptions extends ConnectionOptions {
  /** A stub that does not answer the first request for this long is held by another debugger. Default 2000. */
  readonly busyLimitMs?: number;
}

/** What is to run until the next stop. */
export type Resumption =
  | { readonly kind: 'all' }
  | { readonly kind: 'only'; readonly cpu: number }
  | { readonly kind: 'these'; readonly cpus: readonly number[] }
  | { readonly kind: 'step'; readonly cpu: number };

/** QEMU's packets hold 4096 characters; two for each byte, and a header. */
const MEMORY_CHUNK = 2000;

export class StubSession {
  readonly #connection: RspConnection;
  #selected: number | undefined;
  #running: boolean = false;
  #lost: boolean = false;
  #refusal: NinelivesError | undefined;

  /** Called with each stop and the moment its bytes arrived (performance.now()). */
  onStop: (stop: StopReply, atMs: number) => void = () => {};
  onLost: (error: NinelivesError) => void = () => {};

  /** Whether the machine ran when we connected (connecting stopped it). */
  readonly wasRunning: boolean;

  private constructor(connection: RspConnection, wasRunning: boolean) {
    this.#connection = connection;
    this.wasRunning = wasRunning;
    connection.onStopReply = (payload) => {
      const atMs = performance.now();
      this.#running = false;
      this.#selected = undefined;
      this.onStop(parseStopReply(payload), atMs);
    };
    connection.onLost = (error) => {
      this.#running = false; // Requests get the reason of the loss, not a complaint about the running machine.
      this.#lost = true;
      this.onLost(error);
    };
  }

  /**
   * Connects and makes the stub ready. The machine is stopped afterwards.
   * @throws NL_STUB_LOST when nobody listens, NL_STUB_BUSY when another debugger holds the stub, NL_STUB_ERROR when the
   * other side is not a QEMU stub that can run single CPUs.
   */
  static async open(address: StubAddress, options: SessionOptions = {}): Promise<StubSession> {
    const connection = await RspConnection.open(address, options);
    let wasRunning = false;
    connection.onStopReply = () => {
      wasRunning = true;
    };
    try {
      const answers = Promise.all([
        connection.request('qSupported:hwbreak+;swbreak+;vContSupported+'),
        connection.request('vCont?'),
        connection.request('qXfer:features:read:target.xml:0,7fb'),
      ]);
      const [, vCont, target] = await withinLimit(answers, options.busyLimitMs ?? 2000, address);
      if (!vCont.startsWith('vCont;c') || !target.includes('<'))
        throw new NinelivesError('NL_STUB_ERROR', `the stub at ${showAddress(address)} is not one of QEMU's`, {
          fix: 'give the address of a -gdb option of qemu-system-x86_64',
        });
    } catch (error) {
      connection.close();
      throw error;
    }
    return new StubSession(connection, wasRunning);
  }

  get running(): boolean {
    return this.#running;
  }

  /** Whether the connection is gone. */
  get lost(): boolean {
    return this.#lost;
  }

  /** Every request from now on fails with this error, or no longer, although the connection may still be good. */
  refuse(error: NinelivesError | undefined): void {
    this.#refusal = error;
  }

  /** Registers of one CPU. @throws NL_STUB_ERROR, NL_STUB_LOST */
  async registers(cpu: number): Promise<CpuRegisters> {
    const [, reply] = await Promise.all([this.#select(cpu), this.#request('g')]);
    return parseRegisters(reply);
  }

  /** Registers of the CPUs 0 to count-1, asked for in one write. */
  async allRegisters(count: number): Promise<CpuRegisters[]> {
    return Promise.all(Array.from({ length: count }, (_, cpu) => this.registers(cpu)));
  }

  /** The program counter alone; cut to 32 bits while the CPU is not in 64-bit code. */
  async programCounter(cpu: number): Promise<bigint> {
    const [, reply] = await Promise.all([this.#select(cpu), this.#request(`p${REGISTER_NUMBERS.rip.toString(16)}`)]);
    return Buffer.from(reply, 'hex').readBigUInt64LE();
  }

  /** Writes registers of several CPUs in one write; segments first (see `registerWrites`). @throws NL_STUB_ERROR */
  async writeRegisters(writes: ReadonlyMap<number, Partial<CpuRegisters>>): Promise<void> {
    const all: Promise<unknown>[] = [];
    for (const [cpu, values] of writes) {
      const packets = registerWrites(values);
      if (packets.length === 0) continue;
      all.push(this.#select(cpu));
      for (const packet of packets) all.push(this.#expectOk(packet, `write of a register of CPU ${cpu} (${packet})`));
    }
    await Promise.all(all);
  }

  /** Memory as this CPU sees it (virtual addresses). @throws NL_STUB_ERROR where nothing is mapped. */
  async readVirtual(cpu: number, address: bigint, length: number): Promise<Buffer> {
    const [, data] = await Promise.all([this.#select(cpu), this.#read(address, length)]);
    return data;
  }

  async readPhysical(address: number, length: number): Promise<Buffer> {
    const [, data] = await Promise.all([
      this.#physicalMode('on'),
      this.#read(BigInt(address), length),
      this.#physicalMode('off'),
    ]);
    return data;
  }

  /** The stub drops code translated from what is written, so this is the way to change text. */
  async writePhysical(address: number, bytes: Uint8Array): Promise<void> {
    await Promise.all([this.#physicalMode('on'), this.#write(BigInt(address), bytes), this.#physicalMode('off')]);
  }

  /**
   * Runs a command of QEMU's text monitor, as seen from one CPU. Unlike QMP this needs no second thread of QEMU to wake, so
   * it is several times faster, above all on a busy host (QEMU 7.2, gdbstub.c: handle_query_rcmd).
   */
  async monitor(commandLine: string, cpu: number): Promise<string> {
    this.#refuseWhileRunning(commandLine);
    const command = (text: string): Promise<Reply> =>
      this.#connection.requestWithConsole(`qRcmd,${Buffer.from(text, 'latin1').toString('hex')}`);
    // Both are awaited together: when the link is lost both fail, and neither failure may go unheard.
    const [, { payload, console }] = await Promise.all([command(`cpu ${cpu}`), command(commandLine)]);
    if (payload !== 'OK') throw stubError(payload, commandLine);
    return Buffer.from(console, 'hex').toString('latin1').replaceAll('\r\n', '\n');
  }

  async insertBreakpoints(addresses: Iterable<bigint>): Promise<void> {
    await Promise.all([...addresses].map((at) => this.#expectOk(`Z0,${at.toString(16)},1`, 'setting a breakpoint')));
  }

  async removeBreakpoints(addresses: Iterable<bigint>): Promise<void> {
    await Promise.all([...addresses].map((at) => this.#expectOk(`z0,${at.toString(16)},1`, 'removing a breakpoint')));
  }

  /** Lets the machine run, or one CPU of it. The next stop comes through `onStop`. */
  resume(what: Resumption): void {
    this.#refuseWhileRunning('resume');
    this.#connection.send(resumePacket(what));
    this.#running = true;
    this.#connection.flush();
  }

  /** Has what was asked for leave now, for whoever does something else before waiting for the answer. */
  flush(): void {
    this.#connection.flush();
  }

  /** Asks a running machine to stop; harmless when it has just stopped by itself. */
  interrupt(): void {
    this.#connection.interrupt();
    this.#connection.flush();
  }

  /** Detaches: the stub drops nothing but lets the machine run. Remove breakpoints before. */
  async detach(): Promise<void> {
    await this.#expectOk('D', 'detaching');
    this.close();
  }

  close(): void {
    this.#connection.close();
  }

  #select(cpu: number): Promise<void> {
    if (this.#selected === cpu) return Promise.resolve();
    const done = this.#expectOk(`Hg${(cpu + 1).toString(16)}`, `choosing CPU ${cpu}`);
    this.#selected = cpu;
    return done;
  }

  async #read(address: bigint, length: number): Promise<Buffer> {
    const parts: Promise<string>[] = [];
    for (let at = 0; at < length; at += MEMORY_CHUNK) {
      const size = Math.min(MEMORY_CHUNK, length - at);
      parts.push(this.#request(`m${(address + BigInt(at)).toString(16)},${size.toString(16)}`));
    }
    const replies = await Promise.all(parts);
    for (const reply of replies)
      if (isError(reply)) throw stubError(reply, `reading memory at 0x${address.toString(16)}`);
    return Buffer.from(replies.join(''), 'hex');
  }

  async #write(address: bigint, bytes: Uint8Array): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < bytes.length; at += MEMORY_CHUNK) {
      const part = bytes.subarray(at, at + MEMORY_CHUNK);
      const data = Buffer.from(part.buffer, part.byteOffset, part.length).toString('hex');
      const where = (address + BigInt(at)).toString(16);
      parts.push(this.#expectOk(`M${where},${part.length.toString(16)}:${data}`, `writing memory at 0x${where}`));
    }
    await Promise.all(parts);
  }

  #physicalMode(mode: 'on' | 'off'): Promise<void> {
    return this.#expectOk(`Qqemu.PhyMemMode:${mode === 'on' ? 1 : 0}`, `physical memory mode ${mode}`);
  }

  async #expectOk(payload: string, what: string): Promise<void> {
    const reply = await this.#request(payload);
    if (reply !== 'OK') throw stubError(reply, what);
  }

  /** Async so that a refusal is a rejection like any other: callers await several requests together. */
  async #request(payload: string): Promise<string> {
    this.#refuseWhileRunning(payload.slice(0, 40));
    return this.#connection.request(payload);
  }

  #refuseWhileRunning(what: string): void {
    if (this.#refusal) throw this.#refusal;
    if (this.#running)
      throw new NinelivesError('NL_INTERNAL', `"${what}" sent to the debugger stub while the machine runs`);
  }
}

function resumePacket(what: Resumption): string {
  const thread = (cpu: number): string => (cpu + 1).toString(16);
  switch (what.kind) {
    case 'all':
      return 'vCont;c';
    case 'only':
      return `vCont;c:${thread(what.cpu)}`;
    case 'these':
      return `vCont${what.cpus.map((cpu) => `;c:${thread(cpu)}`).join('')}`;
    case 'step':
      return `vCont;s:${thread(what.cpu)}`;
  }
}

const isError = (reply: string): boolean => reply === '' || /^E[0-9a-fA-F]{2}$/.test(reply);

const stubError = (reply: string, what: string): NinelivesError =>
  new NinelivesError(
    'NL_STUB_ERROR',
    reply === '' ? `the debugger stub does not know: ${what}` : `the debugger stub answered ${reply} to: ${what}`,
  );

async function withinLimit<T>(work: Promise<T>, limitMs: number, address: StubAddress): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new NinelivesError('NL_STUB_BUSY', `the stub at ${showAddress(address)} accepts but does not answer`, {
            fix: 'close the other debugger that holds it (QEMU serves one at a time)',
          }),
        ),
      limitMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => {});
  }
}
