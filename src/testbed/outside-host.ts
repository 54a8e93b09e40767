/**
 * A host outside the box, on the same network as its AppVMs: sends numbered UDP pings at a steady pace and notes when which one
 * was answered. A ping goes through the emulated network card, Xen, dom0's driver, its bridge, netback and netfront to the echo
 * service of a guest, and back. It is the sender of the papers' NetBench (ReHype, NiLiHype); what its record says about the
 * guest is decided in `workload/netbench.ts`.
 *
 * The host is a Unix socket that QEMU takes for a network cable: nothing of this machine's own network is touched.
 */
import { randomInt } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { NinelivesError } from '../common/errors.js';
import { ECHO_PORT, OUTSIDE, OUTSIDE_PORT, type Station } from './net/addresses.js';
import { arpReplyFrame, parseArpRequest, parseUdp, udpFrame } from './net/frames.js';
import { FrameReader, prefixed } from './net/stream.js';

export interface Ping {
  /** Name of the VM it was sent to. */
  readonly to: string;
  /** Its number among all pings since the connection was made. */
  readonly n: number;
  /** performance.now() */
  readonly sentAtMs: number;
  /** When the first right answer came; absent while there is none. */
  readonly answeredAtMs?: number;
}

/** A time in which the host held its pings back. `endMs` is absent while it does. performance.now() */
export interface Hold {
  readonly startMs: number;
  readonly endMs?: number;
}

/** A VM that answers. */
export interface Neighbour {
  readonly name: string;
  readonly station: Station;
}

export interface OutsideHostOptions {
  /** From one ping to a VM to the next. Default `PING_PERIOD_MS`. */
  readonly periodMs?: number;
}

/** See docs/design/workloads.md for how it was measured. */
export const PING_PERIOD_MS = 10;
/** Ten minutes of pings to one VM. */
const KEPT_PINGS = 60_000;
/** Of payload: what `ping` sends. */
const PAYLOAD = 56;
/** Bytes that may wait in our process for a machine that does not take them; what would come on top is not sent at all. */
const BACKLOG = 64 * 1024;

/** A busy host carries a ping in a second. */
const FIRST_ANSWERS_LIMIT_MS = 120_000;
const FIRST_ANSWERS = 20;

type Sent = { -readonly [K in keyof Ping]: Ping[K] };

export class OutsideHost {
  readonly #path: string;
  readonly #neighbours: readonly Neighbour[];
  readonly #stepMs: number;
  #socket: Socket | undefined;
  /** Tells the pings of this connection from those that a restored machine still had on their way. */
  #session: number = 0;
  #pings: Sent[] = [];
  #nextN: number = 0;
  #damaged: number = 0;
  #holds: { readonly startMs: number; endMs?: number }[] = [];
  #timer: NodeJS.Timeout | undefined;
  #dueMs: number = 0;

  private constructor(path: string, neighbours: readonly Neighbour[], options: OutsideHostOptions) {
    this.#path = path;
    this.#neighbours = neighbours;
    this.#stepMs = (options.periodMs ?? PING_PERIOD_MS) / Math.max(1, neighbours.length);
  }

  /**
   * Plugs in the cable. Nothing is sent before `resume()`.
   * @param path socket of QEMU's network backend
   * @throws NL_QEMU_EXITED when nobody listens there
   */
  static async connect(
    path: string,
    neighbours: readonly Neighbour[],
    options: OutsideHostOptions = {},
  ): Promise<OutsideHost> {
    const host = new OutsideHost(path, neighbours, options);
    await host.reconnect();
    return host;
  }

  /**
   * Forgets all pings and plugs the cable in again: the machine was set back. Nothing is sent before `resume()`.
   * @throws NL_QEMU_EXITED
   */
  async reconnect(): Promise<void> {
    this[Symbol.dispose]();
    this.#session = randomInt(2 ** 32);
    this.#pings = [];
    this.#nextN = 0;
    this.#damaged = 0;
    this.#holds = [{ startMs: performance.now() }];
    const reader = new FrameReader();
    const socket = await open(this.#path);
    this.#socket = socket;
    socket.on('data', (piece: Buffer) => {
      for (const frame of reader.push(piece)) this.#receive(frame);
    });
    // A machine that ends is seen by whoever runs it; here its pings just stay without an answer.
    socket.on('error', () => {});
    socket.once('close', () => {
      if (this.#socket === socket) this.#socket = undefined;
    });
  }

  /** Sends no more pings, such as while an injector holds the machine. */
  pause(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#holds.push({ startMs: performance.now() });
  }

  /** Sends pings, from now on at the steady pace. */
  resume(): void {
    if (this.#timer !== undefined) return;
    this.#dueMs = performance.now();
    const hold = this.#holds.at(-1);
    if (hold !== undefined && hold.endMs === undefined) hold.endMs = this.#dueMs;
    this.#tick();
  }

  /** The last pings, at most 60,000, in the order in which they were sent; those to one VM where it is named. */
  pings(to?: string): readonly Ping[] {
    return to === undefined ? this.#pings.slice() : this.#pings.filter((ping) => ping.to === to);
  }

  /** The times in which `pause()` held the pings back, in order. The first begins with the connection. */
  holds(): readonly Hold[] {
    return this.#holds.map((hold) => ({ ...hold }));
  }

  /** Answers that came with other bytes than the ping had. None of them counts as an answer. */
  get damagedAnswers(): number {
    return this.#damaged;
  }

  /** Names of the VMs that pings are sent to. */
  get neighbours(): readonly string[] {
    return this.#neighbours.map(({ name }) => name);
  }

  /** Pulls the cable out. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#socket?.destroy();
    this.#socket = undefined;
  }

  #tick(): void {
    const now = performance.now();
    this.#send(now);
    // A process that was busy for a while goes on from now: it is no burst that is to be measured.
    this.#dueMs = Math.max(this.#dueMs + this.#stepMs, now);
    this.#timer = setTimeout(() => this.#tick(), this.#dueMs - now);
    this.#timer.unref();
  }

  #send(now: number): void {
    const neighbour = this.#neighbours[this.#nextN % this.#neighbours.length];
    if (!neighbour || !this.#socket || this.#socket.writableLength > BACKLOG) return;
    const n = this.#nextN++;
    const from = { ...OUTSIDE, port: OUTSIDE_PORT };
    const to = { ...neighbour.station, port: ECHO_PORT };
    this.#socket.write(prefixed(udpFrame({ from, to, payload: this.#payload(n) })));
    this.#pings.push({ to: neighbour.name, n, sentAtMs: now });
    // Seldom, as it moves all of them.
    if (this.#pings.length > KEPT_PINGS * 1.25) this.#pings.splice(0, this.#pings.length - KEPT_PINGS);
  }

  #receive(frame: Buffer): void {
    const question = parseArpRequest(frame);
    if (question?.wanted === OUTSIDE.ip) {
      this.#socket?.write(prefixed(arpReplyFrame(OUTSIDE, question.from)));
      return;
    }
    const datagram = parseUdp(frame);
    if (datagram?.to.ip !== OUTSIDE.ip || datagram.to.port !== OUTSIDE_PORT || datagram.from.port !== ECHO_PORT) return;
    const { payload, from } = datagram;
    if (payload.length !== PAYLOAD || payload.readUInt32BE(0) !== this.#session) return;
    const n = payload.readUInt32BE(4);
    const ping = this.#pings[n - (this.#pings[0]?.n ?? 0)];
    if (!ping) return;
    const sender = this.#neighbours.find(({ station }) => station.ip === from.ip);
    if (sender?.name !== ping.to || !payload.equals(this.#payload(n))) this.#damaged++;
    else ping.answeredAtMs ??= performance.now();
  }

  /** Session and number, and bytes that are others in each ping. */
  #payload(n: number): Buffer {
    const payload = Buffer.alloc(PAYLOAD);
    payload.writeUInt32BE(this.#session, 0);
    payload.writeUInt32BE(n, 4);
    for (let i = 8; i < PAYLOAD; i++) payload[i] = n + i * 7;
    return payload;
  }
}

/**
 * Pings until each VM has answered some, and is silent again. Their caches of addresses are warm then, and the way is known to be whole.
 * @throws NL_BOOT_FAILED when one does not answer, the signal's reason
 */
export async function awaitAnswers(host: OutsideHost, signal?: AbortSignal): Promise<void> {
  const end = performance.now() + FIRST_ANSWERS_LIMIT_MS;
  host.resume();
  try {
    for (;;) {
      const silent = host.neighbours.filter(
        (name) => host.pings(name).filter((ping) => ping.answeredAtMs !== undefined).length < FIRST_ANSWERS,
      );
      if (silent.length === 0) return;
      if (performance.now() > end)
        throw new NinelivesError('NL_BOOT_FAILED', `${silent.join(', ')} did not answer on the network`, {
          fix: 'a busy host may need a second try',
        });
      await sleep(50);
      signal?.throwIfAborted();
    }
  } finally {
    host.pause();
  }
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.unref();
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', (cause) =>
      reject(new NinelivesError('NL_QEMU_EXITED', "the box's network cannot be reached", { cause })),
    );
  });
}
