/** A debugger stub that behaves as QEMU 7.2's does, as far as our client can tell, and misbehaves on request. */
import { createServer, type Server, type Socket } from 'node:net';
import { formatRegisters, REGISTER_NUMBERS } from '../../../src/machine/registers.js';
import { encodePacket, PacketDecoder } from '../../../src/machine/rsp/codec.js';
import type { CpuRegisters, RegisterName } from '../../../src/x86/registers.js';
import { emptyRegisters } from '../../support/fake-registers.js';

/** Returned by a script for a packet: a reply, silence, a damaged reply, or the end of the connection. */
export type Scripted = { reply: string } | 'default' | 'silence' | 'damage' | 'cut';

export class FakeStub {
  readonly path: string;
  readonly cpus: CpuRegisters[];
  readonly memory = new Map<bigint, number>();
  readonly breakpoints = new Set<bigint>();
  /** All packets received, in order. */
  readonly received: string[] = [];
  running: boolean = false;
  /** Bytes that arrived while the machine ran and stopped it although they were no interrupt. */
  wrongStops = 0;
  /** Decides about a packet before the default behaviour does. */
  script: (packet: string) => Scripted = () => 'default';
  /** What a resume does: by default the machine runs until it is interrupted. */
  onResume: (packet: string) => void = () => {};
  physicalMode = false;

  readonly #server: Server;
  #socket: Socket | undefined;
  #cpu = 0;

  private constructor(server: Server, path: string, cpuCount: number) {
    this.#server = server;
    this.path = path;
    this.cpus = Array.from({ length: cpuCount }, emptyRegisters);
  }

  static async listen(path: string, cpuCount = 2): Promise<FakeStub> {
    const server = createServer();
    const stub = new FakeStub(server, path, cpuCount);
    server.on('connection', (socket) => stub.#accept(socket));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return stub;
  }

  /** As a second client sees it: the kernel accepts, QEMU does not. */
  deaf: boolean = false;

  stop(reply: string): void {
    this.running = false;
    this.#cpu = Number.parseInt(/thread:([0-9a-f]+)/.exec(reply)?.[1] ?? '1', 16) - 1;
    this.#socket?.write(encodePacket(reply), 'latin1');
  }

  cut(): void {
    this.#socket?.destroy();
  }

  async close(): Promise<void> {
    this.#socket?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #accept(socket: Socket): void {
    this.#socket = socket;
    socket.on('error', () => {});
    if (this.deaf) return;
    if (this.running) this.stop('T02thread:01;');
    const decoder = new PacketDecoder();
    socket.on('data', (chunk: Buffer) => {
      for (const frame of decoder.push(chunk)) {
        if (frame.kind === 'ack') continue;
        if (this.running) {
          if (frame.kind !== 'interrupt') this.wrongStops++;
          this.stop('T02thread:01;');
        } else if (frame.kind === 'packet') {
          this.#handle(frame.payload);
        } else if (frame.kind === 'nack') {
          this.#reply(this.#last);
        }
      }
    });
  }

  #last = '';

  #reply(payload: string): void {
    this.#last = payload;
    this.#socket?.write(encodePacket(payload), 'latin1');
  }

  #handle(packet: string): void {
    this.received.push(packet);
    const scripted = this.script(packet);
    if (scripted === 'silence') return;
    if (scripted === 'cut') this.cut();
    else if (scripted === 'damage') {
      this.#last = this.#answer(packet) ?? '';
      this.#socket?.write(`$${this.#last}#zz`, 'latin1');
    } else if (scripted === 'default') {
      const reply = this.#answer(packet);
      if (reply !== undefined) this.#reply(reply);
    } else this.#reply(scripted.reply);
  }

  #answer(packet: string): string | undefined {
    const memory = /^([mM])([0-9a-f]+),([0-9a-f]+)(?::([0-9a-f]*))?$/.exec(packet);
    if (memory) return this.#memory(BigInt(`0x${memory[2]}`), Number.parseInt(memory[3]!, 16), memory[4]);
    if (packet.startsWith('qSupported')) return 'PacketSize=1000;qXfer:features:read+;vContSupported+';
    if (packet === 'vCont?') return 'vCont;c;C;s;S';
    if (packet.startsWith('qXfer')) return 'l<?xml version="1.0"?><target/>';
    if (packet.startsWith('Hg')) {
      this.#cpu = Number.parseInt(packet.slice(2), 16) - 1;
      return this.cpus[this.#cpu] ? 'OK' : 'E22';
    }
    if (packet === 'g') return formatRegisters(this.cpus[this.#cpu]!);
    if (packet.startsWith('p')) return this.#readRegister(Number.parseInt(packet.slice(1), 16));
    if (packet.startsWith('P')) return this.#writeRegister(packet);
    if (packet.startsWith('Qqemu.PhyMemMode:')) {
      this.physicalMode = packet.endsWith('1');
      return 'OK';
    }
    if (/^[Zz]0,/.test(packet)) {
      const address = BigInt(`0x${packet.split(',')[1]}`);
      if (packet[0] === 'Z') this.breakpoints.add(address);
      else this.breakpoints.delete(address);
      return 'OK';
    }
    if (packet.startsWith('vCont;')) {
      this.running = true;
      this.onResume(packet);
      return undefined;
    }
    if (packet.startsWith('qRcmd,')) {
      const text = Buffer.from(packet.slice(6), 'hex').toString();
      if (!text.startsWith('cpu '))
        this.#socket?.write(encodePacket(`O${Buffer.from('ISR\t (none)\r\n').toString('hex')}`));
      return 'OK';
    }
    if (packet === 'D') {
      this.running = true;
      return 'OK';
    }
    return '';
  }

  #memory(address: bigint, length: number, data: string | undefined): string {
    const cells = Array.from({ length }, (_, i) => address + BigInt(i));
    if (data === undefined)
      return cells.map((cell) => (this.memory.get(cell) ?? 0).toString(16).padStart(2, '0')).join('');
    const bytes = Buffer.from(data, 'hex');
    for (const [i, cell] of cells.entries()) this.memory.set(cell, bytes[i]!);
    return 'OK';
  }

  #readRegister(number: number): string {
    const name = nameOf(number);
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(this.cpus[this.#cpu]![name]));
    return bytes.toString('hex');
  }

  #writeRegister(packet: string): string {
    const [number, value] = packet.slice(1).split('=');
    const name = nameOf(Number.parseInt(number!, 16));
    const bytes = Buffer.alloc(8);
    Buffer.from(value!, 'hex').copy(bytes);
    const wide = bytes.readBigUInt64LE();
    Object.assign(this.cpus[this.#cpu]!, { [name]: value!.length === 8 ? Number(wide) : wide });
    return 'OK';
  }
}

const nameOf = (number: number): RegisterName =>
  (Object.keys(REGISTER_NUMBERS) as RegisterName[]).find((name) => REGISTER_NUMBERS[name] === number)!;
