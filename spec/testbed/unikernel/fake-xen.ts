/** A hypervisor, a XenStore and a block backend for the unikernel's machine code, with what can go wrong with them. */
import { parseReport, type VmReport } from '../../../src/testbed/reports.js';
import { BLK_READ, BLK_RING, DISK_DEVICE, DISK_SECTORS, RING_GRANT } from '../../../src/testbed/unikernel/blkfront.js';
import * as layout from '../../../src/testbed/unikernel/layout.js';
import { STORE_HEADER, STORE_READ, STORE_RING, STORE_WRITE } from '../../../src/testbed/unikernel/xenstore.js';
import { Cpu } from './cpu.js';

const { PAGE, HYPERCALL, START_INFO, SHARED_INFO, EVTCHNOP } = layout;
const SECTOR = 512;
const START_INFO_PAGE = layout.END;
const FRAME_TABLE = layout.END + PAGE;
const MEMORY = FRAME_TABLE + PAGE;
/** Frame numbers: those of the guest's own pages, and those that the others give it. */
const FIRST_FRAME = 0x1000;
const SHARED_FRAME = 0x5000;
const STORE_FRAME = 0x5001;
const GRANT_FRAME = 0x5002;
const PORTS = { store: 2, timer: 5, disk: 7 } as const;
const STORE_ERROR = 16;

const BACKEND = `/local/domain/0/backend/vbd/7/${DISK_DEVICE}`;

export interface Faults {
  /** What the backend says of its state; by default it connects at the second look after the guest has. */
  readonly backendState?: string;
  readonly sectors?: number;
  readonly disk?: 'none' | 'silent';
  readonly status?: number;
  /** Changes what a transfer moves. */
  readonly spoil?: (data: Buffer, operation: number) => void;
  readonly responseId?: (id: bigint) => bigint;
  /** The backend does not give back the pages it was granted. */
  readonly keepsPages?: boolean;
  readonly hypercall?: (number: number) => number;
}

/** Why the guest does not go on. */
export type Stop = 'steps are done' | 'blocks for good' | 'does not end';

export class FakeXen {
  readonly disk = Buffer.alloc(DISK_SECTORS * SECTOR);
  readonly store = new Map<string, string>();
  readonly events = { sent: 0, delivered: 0 };
  readonly #faults: Faults;
  readonly #memory = Buffer.alloc(MEMORY);
  readonly #unmapped = new Set<number>();
  readonly #cpu: Cpu;
  #handler = 0n;
  #timer: boolean = false;
  #stuck: boolean = false;
  /** What other domains do as soon as the guest gives the CPU away. */
  readonly #others: (() => void)[] = [];
  #looks = 0;

  /** @param kernel an ELF file as `pvElf` makes it */
  constructor(kernel: Buffer, faults: Faults = {}) {
    this.#faults = faults;
    kernel.copy(this.#memory, layout.CODE, 4096);
    this.#cpu = new Cpu({
      memory: this.#memory,
      mayAccess: (page) => !this.#unmapped.has(page),
      outside: { page: layout.HYPERCALLS / PAGE, call: (number) => this.#hypercall(number) },
    });
    this.#cpu.rip = BigInt(layout.CODE);
    this.#cpu.registers[6] = BigInt(START_INFO_PAGE);
    const info = this.#memory.subarray(START_INFO_PAGE);
    info.writeBigUInt64LE(BigInt(SHARED_FRAME * PAGE), START_INFO.sharedInfo);
    info.writeBigUInt64LE(BigInt(STORE_FRAME), START_INFO.storeFrame);
    info.writeUInt32LE(PORTS.store, START_INFO.storePort);
    info.writeBigUInt64LE(BigInt(FRAME_TABLE), START_INFO.mfnList);
    for (let page = 0; page < layout.END / PAGE; page++)
      this.#memory.writeBigUInt64LE(BigInt(FIRST_FRAME + page), FRAME_TABLE + 8 * page);
    if (faults.disk !== 'none') this.store.set(`device/vbd/${DISK_DEVICE}/backend`, BACKEND);
    this.store.set(`${BACKEND}/sectors`, String(faults.sectors ?? DISK_SECTORS));
  }

  /** Runs until that many steps are reported. */
  run(steps: number): Stop {
    const limit = 3_000_000 * (steps + 1);
    for (let count = 0; count < limit; count++) {
      this.#cpu.step();
      if (this.#stuck) return 'blocks for good';
      // Asked seldom: the guest rests long enough between its steps.
      if (this.#timer && this.report()?.n === steps) return 'steps are done';
    }
    return 'does not end';
  }

  /** As the supervisor reads it: of two pages the further one. */
  report(): VmReport | undefined {
    const magic = this.#memory.toString('latin1', layout.REPORTS, layout.REPORTS + 32);
    const pages = [0, 1].map((i) => this.#memory.subarray(layout.REPORTS + i * PAGE));
    const reports = pages.map((page) => parseReport(page, magic)).filter((one) => one !== undefined);
    return reports.sort((a, b) => b.n - a.n)[0];
  }

  #hypercall(number: number): void {
    const { registers } = this.#cpu;
    const argument = Number(registers[6]!);
    const result = this.#faults.hypercall?.(number) ?? 0;
    const struct = this.#memory.subarray(argument);
    registers[0] = BigInt.asUintN(64, BigInt(result));
    if (result !== 0) return;
    switch (number) {
      case HYPERCALL.setCallbacks:
        this.#handler = registers[7]!;
        return;
      case HYPERCALL.updateVaMapping:
        this.#map(Number(registers[7]!), argument);
        return;
      case HYPERCALL.setTimerOp:
        this.#timer = true;
        return;
      case HYPERCALL.schedOp:
        if (registers[7] === BigInt(layout.SCHEDOP.block)) this.#block();
        return;
      case HYPERCALL.grantTableOp:
        expectThat(struct.readUInt16LE(0) === layout.DOMID_SELF && struct.readUInt32LE(4) === 1, 'grant table');
        this.#memory.writeBigUInt64LE(BigInt(GRANT_FRAME), Number(struct.readBigUInt64LE(16)));
        return;
      case HYPERCALL.eventChannelOp:
        this.#eventChannel(Number(registers[7]!), struct);
        return;
      default:
        throw new Error(`hypercall ${number}`);
    }
  }

  #map(address: number, entry: number): void {
    if (entry === 0) {
      this.#unmapped.add(address / PAGE);
      return;
    }
    this.#unmapped.delete(address / PAGE);
    const frame = Math.floor(entry / PAGE);
    const place = { [SHARED_FRAME]: layout.SHARED, [STORE_FRAME]: layout.STORE, [GRANT_FRAME]: layout.GRANTS }[frame];
    expectThat((place ?? (frame - FIRST_FRAME) * PAGE) === address, `frame ${frame} at ${address}`);
  }

  #eventChannel(operation: number, struct: Buffer): void {
    switch (operation) {
      case EVTCHNOP.bindVirq:
        expectThat(struct.readUInt32LE(0) === 0, 'virtual interrupt');
        struct.writeUInt32LE(PORTS.timer, 8);
        return;
      case EVTCHNOP.allocUnbound:
        expectThat(struct.readUInt16LE(0) === layout.DOMID_SELF && struct.readUInt16LE(2) === 0, 'domains of a port');
        struct.writeUInt32LE(PORTS.disk, 4);
        return;
      case EVTCHNOP.send:
        this.events.sent++;
        if (struct.readUInt32LE(0) === PORTS.store) this.#others.push(() => this.#answerStore());
        else if (struct.readUInt32LE(0) === PORTS.disk) this.#others.push(() => this.#answerDisk());
        else throw new Error('event to an unknown port');
        return;
      default:
        throw new Error(`event channel operation ${operation}`);
    }
  }

  #block(): void {
    const shared = this.#memory.subarray(layout.SHARED);
    expectThat(shared[SHARED_INFO.upcallMask] === 1, 'events come in outside of blocking');
    this.#others.shift()?.();
    if (shared.readBigUInt64LE(SHARED_INFO.eventPending) === 0n) {
      if (!this.#timer) {
        this.#stuck = true;
        return;
      }
      this.#timer = false;
      this.#raise(PORTS.timer);
    }
    this.events.delivered++;
    this.#cpu.deliver(this.#handler);
  }

  #raise(port: number): void {
    const shared = this.#memory.subarray(layout.SHARED);
    const pending = shared.readBigUInt64LE(SHARED_INFO.eventPending);
    shared.writeBigUInt64LE(pending | (1n << BigInt(port)), SHARED_INFO.eventPending);
    shared.writeBigUInt64LE(1n, SHARED_INFO.pendingSelector);
    shared[SHARED_INFO.upcallPending] = 1;
  }

  #answerStore(): void {
    const ring = this.#memory.subarray(layout.STORE, layout.STORE + PAGE);
    const produced = ring.readUInt32LE(STORE_RING.requestsProduced);
    const bytes: number[] = [];
    for (let at = ring.readUInt32LE(2048); at !== produced; at++)
      bytes.push(ring[STORE_RING.requests + (at % STORE_RING.size)]!);
    ring.writeUInt32LE(produced, 2048);
    const message = Buffer.from(bytes);
    const payload = message.subarray(STORE_HEADER.size);
    expectThat(message.readUInt32LE(STORE_HEADER.length) === payload.length, 'length of a message');
    const type = message.readUInt32LE(STORE_HEADER.type);
    const answer = this.#storeAnswer(type, payload);
    const header = Buffer.alloc(STORE_HEADER.size);
    header.writeUInt32LE(answer === undefined ? STORE_ERROR : type, STORE_HEADER.type);
    const text = Buffer.from(answer ?? 'ENOENT\0');
    header.writeUInt32LE(text.length, STORE_HEADER.length);
    let at = ring.readUInt32LE(STORE_RING.answersProduced);
    for (const byte of Buffer.concat([header, text])) ring[STORE_RING.answers + (at++ % STORE_RING.size)] = byte;
    ring.writeUInt32LE(at, STORE_RING.answersProduced);
    this.#raise(PORTS.store);
  }

  #storeAnswer(type: number, payload: Buffer): string | undefined {
    const end = payload.indexOf(0);
    const path = payload.toString('latin1', 0, end);
    if (type === STORE_WRITE) {
      this.store.set(path, payload.toString('latin1', end + 1));
      return 'OK\0';
    }
    expectThat(type === STORE_READ && end === payload.length - 1, `question ${type} for ${path}`);
    if (path !== `${BACKEND}/state`) return this.store.get(path);
    const connected = this.store.get(`device/vbd/${DISK_DEVICE}/state`) === '3' && ++this.#looks > 1;
    return this.#faults.backendState ?? (connected ? '4' : '2');
  }

  #answerDisk(): void {
    if (this.#faults.disk === 'silent') return;
    const { ring, done } = this.#diskRing();
    const produced = ring.readUInt32LE(BLK_RING.requestsProduced);
    // All requests first: a backend may finish them in any order.
    const requests: { id: bigint; operation: number }[] = [];
    for (let at = done; at !== produced; at++) {
      const request = Buffer.from(entryAt(ring, at));
      requests.unshift({ id: request.readBigUInt64LE(8), operation: request.readUInt8(0) });
      this.#transfer(request);
    }
    for (const [i, { id, operation }] of requests.entries()) {
      const entry = entryAt(ring, done + i);
      entry.writeBigUInt64LE(this.#faults.responseId?.(id) ?? id, 0);
      entry.writeUInt8(operation, 8);
      entry.writeInt16LE(this.#faults.status ?? 0, 10);
    }
    ring.writeUInt32LE(produced, BLK_RING.responsesProduced);
    expectThat(ring.readUInt32LE(BLK_RING.responseEvent) === produced, 'event for the last response');
    this.#raise(PORTS.disk);
  }

  /** The ring as the backend finds it through XenStore and the grant table. */
  #diskRing(): { ring: Buffer; done: number } {
    const read = (node: string): string => this.store.get(`device/vbd/${DISK_DEVICE}/${node}`) ?? '';
    expectThat(Number(read('event-channel')) === PORTS.disk, 'port of the disk');
    expectThat(Number(read('ring-ref')) === RING_GRANT && read('protocol') === 'x86_64-abi', 'what the disk is told');
    expectThat(read('state') === '4', 'state of the frontend');
    const ring = this.#granted(RING_GRANT).page;
    return { ring, done: ring.readUInt32LE(BLK_RING.responsesProduced) };
  }

  #granted(reference: number): { page: Buffer; flags: number; entry: Buffer } {
    const entry = this.#memory.subarray(layout.GRANTS + 8 * reference);
    const flags = entry.readUInt16LE(0);
    expectThat((flags & 1) === 1 && entry.readUInt16LE(2) === 0, `grant ${reference}`);
    const start = (entry.readUInt32LE(4) - FIRST_FRAME) * PAGE;
    return { page: this.#memory.subarray(start, start + PAGE), flags, entry };
  }

  #transfer(request: Buffer): void {
    const operation = request.readUInt8(0);
    expectThat(request.readUInt16LE(2) === DISK_DEVICE, 'device of a request');
    let at = Number(request.readBigUInt64LE(16)) * SECTOR;
    for (let i = 0; i < request.readUInt8(1); i++) {
      const segment = request.subarray(24 + 8 * i);
      const { page, flags, entry } = this.#granted(segment.readUInt32LE(0));
      const first = segment.readUInt8(4) * SECTOR;
      const end = (segment.readUInt8(5) + 1) * SECTOR;
      const data =
        operation === BLK_READ
          ? Buffer.from(this.disk.subarray(at, at + end - first))
          : Buffer.from(page.subarray(first, end));
      expectThat(operation === BLK_READ || (flags & 4) === 4, 'what is written is granted for reading only');
      expectThat(operation !== BLK_READ || (flags & 4) === 0, 'what is read is granted for writing');
      this.#faults.spoil?.(data, operation);
      data.copy(operation === BLK_READ ? page.subarray(first) : this.disk.subarray(at));
      if (this.#faults.keepsPages) entry.writeUInt16LE(flags | 8, 0);
      at += end - first;
    }
  }
}

const entryAt = (ring: Buffer, at: number): Buffer => {
  const begin = BLK_RING.entries + (at % BLK_RING.count) * BLK_RING.entrySize;
  return ring.subarray(begin, begin + BLK_RING.entrySize);
};

function expectThat(holds: boolean, what: string): void {
  if (!holds) throw new Error(`the guest has done something wrong: ${what}`);
}
