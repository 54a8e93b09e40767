/**
 * One socket to a debugger stub. Requests are pipelined: many may be in flight, replies come back in order. Stop replies
 * belong to no request and go to their own listener.
 *
 * Acknowledgements: QEMU (7.2 to 10, system mode) never waits for one. It keeps its last packet until it sees `+` or the
 * `$` of the next packet, and takes any other byte that arrives while the machine runs as "stop". An ack that overtakes
 * nothing but comes after a resume would therefore stop the machine, so only stop replies are acknowledged: there the
 * machine stands still. Without that ack an interrupt byte after a foreign `cont` would be swallowed.
 */
import { connect, type Socket } from 'node:net';
import { NinelivesError } from '../../common/errors.js';
import { ACK, encodePacket, INTERRUPT_BYTE, NACK, PacketDecoder } from './codec.js';

/** Where a debugger stub listens. */
export type StubAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

export const showAddress = (address: StubAddress): string =>
  address.kind === 'unix' ? address.path : `${address.host}:${address.port}`;

export interface ConnectionOptions {
  /** A request that has no reply after this many milliseconds means that the stub is gone. Default 5000. */
  readonly replyLimitMs?: number;
  /** Why the connection was lost, if the owner knows better than "the socket was closed" (for example: QEMU ended). */
  readonly explainLoss?: () => NinelivesError | undefined;
}

interface Waiting {
  readonly payload: string;
  /** Console output that came before the reply, in hex. */
  console: string;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

/** A reply, and the text the stub printed while it worked on it (in hex, as `O` packets carry it). */
export interface Reply {
  readonly payload: string;
  readonly console: string;
}

const CONSOLE_OUTPUT = /^O[0-9a-f]/;
const STOP_REPLY = /^[TSWX][0-9a-fA-F]{2}/;
const CONNECT_LIMIT_MS = 3000;

export class RspConnection {
  readonly #socket: Socket;
  readonly #decoder = new PacketDecoder();
  readonly #options: ConnectionOptions;
  #waiting: Waiting[] = [];
  #outgoing = '';
  #lost: NinelivesError | undefined;
  #watch: NodeJS.Timeout | undefined;

  /** Called with each stop reply, in the turn in which its bytes arrived. */
  onStopReply: (payload: string) => void = () => {};
  /** Called once when the connection is gone, for whatever reason but `close()`. */
  onLost: (error: NinelivesError) => void = () => {};

  private constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('close', () => this.#lose(this.#lossError('the socket was closed')));
    socket.on('error', (error) => this.#lose(this.#lossError(error.message, error)));
  }

  /**
   * Connects. QEMU stops the machine as soon as it accepts the connection.
   * @throws NL_STUB_LOST when nobody listens there.
   */
  static async open(address: StubAddress, options: ConnectionOptions = {}): Promise<RspConnection> {
    const socket =
      address.kind === 'unix' ? connect({ path: address.path }) : connect({ host: address.host, port: address.port });
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error): void => {
        clearTimeout(limit);
        socket.destroy();
        reject(
          new NinelivesError('NL_STUB_LOST', `no debugger stub at ${showAddress(address)}: ${error.message}`, {
            fix: 'check that QEMU runs and that its -gdb option (or HMP gdbserver) names this address',
            cause: error,
          }),
        );
      };
      const limit = setTimeout(() => fail(new Error('no answer to connect')), CONNECT_LIMIT_MS);
      socket.once('error', fail);
      socket.once('connect', () => {
        clearTimeout(limit);
        socket.removeListener('error', fail);
        resolve();
      });
    });
    socket.setNoDelay(true);
    return new RspConnection(socket, options);
  }

  /** Requests that have no reply yet. */
  get inFlight(): number {
    return this.#waiting.length;
  }

  /** Sends a request; its reply, unescaped. All requests of one turn leave in one write. @throws NL_STUB_LOST */
  async request(payload: string): Promise<string> {
    return (await this.requestWithConsole(payload)).payload;
  }

  /** As `request`, with the text that came before the reply. */
  requestWithConsole(payload: string): Promise<Reply> {
    if (this.#lost) return Promise.reject(this.#lost);
    return new Promise<Reply>((resolve, reject) => {
      this.#waiting.push({ payload, console: '', resolve, reject });
      this.#enqueue(encodePacket(payload));
      this.#armWatch();
    });
  }

  /** Sends a packet that has no reply but a later stop reply (a resume). @throws NL_STUB_LOST */
  send(payload: string): void {
    if (this.#lost) throw this.#lost;
    this.#enqueue(encodePacket(payload));
  }

  /** Sends the interrupt byte: asks a running machine to stop. @throws NL_STUB_LOST */
  interrupt(): void {
    if (this.#lost) throw this.#lost;
    this.#enqueue(INTERRUPT_BYTE);
  }

  /** Writes what is queued now, without waiting for the end of this turn. */
  flush(): void {
    if (this.#outgoing === '') return;
    const data = this.#outgoing;
    this.#outgoing = '';
    this.#socket.write(data, 'latin1');
  }

  /** Ends the connection. What is in flight is rejected with NL_STUB_LOST. */
  close(): void {
    if (this.#lost) return;
    this.flush();
    this.onLost = () => {};
    this.#lose(new NinelivesError('NL_STUB_LOST', 'the connection to the debugger stub was closed by us'));
    this.#socket.end();
    this.#socket.destroySoon();
  }

  #enqueue(data: string): void {
    if (this.#outgoing === '') queueMicrotask(() => this.flush());
    this.#outgoing += data;
  }

  #receive(chunk: Buffer): void {
    for (const frame of this.#decoder.push(chunk)) {
      if (this.#lost) return;
      switch (frame.kind) {
        case 'packet':
          this.#deliver(frame.payload);
          break;
        case 'nack':
          this.#again('refused our packet', (waiting) => this.#enqueue(encodePacket(waiting.payload)));
          break;
        case 'corrupt':
          this.#again(`sent a damaged packet (${frame.reason})`, () => this.#enqueue(NACK));
          break;
        case 'ack':
        case 'noise':
        case 'interrupt':
          break;
      }
    }
  }

  #deliver(payload: string): void {
    if (STOP_REPLY.test(payload) && this.#waiting[0]?.payload !== '?') {
      this.#enqueue(ACK);
      this.onStopReply(payload);
      return;
    }
    const waiting = this.#waiting[0];
    if (!waiting) return;
    this.#armWatch();
    if (CONSOLE_OUTPUT.test(payload)) {
      waiting.console += payload.slice(1);
      return;
    }
    this.#waiting.shift();
    waiting.resolve({ payload, console: waiting.console });
  }

  #damaged = 0;

  /** A damaged packet can be had again only while it is the only one: the stub repeats its *last* packet. */
  #again(what: string, act: (waiting: Waiting) => void): void {
    const [only, ...others] = this.#waiting;
    if (only && others.length === 0 && this.#damaged++ < 3) {
      act(only);
      return;
    }
    this.#lose(
      new NinelivesError('NL_STUB_ERROR', `the debugger stub ${what}`, {
        fix: 'check that the address is really a GDB stub and that nothing stands between us and it',
      }),
    );
    this.#socket.destroy();
  }

  #armWatch(): void {
    if (this.#watch === undefined) {
      if (this.#waiting.length === 0) return;
      this.#watch = setTimeout(() => {
        this.#watch = undefined;
        if (this.#waiting.length === 0) return;
        this.#lose(this.#lossError(`no reply to "${this.#waiting[0]!.payload.slice(0, 40)}" in time`));
        this.#socket.destroy();
      }, this.#options.replyLimitMs ?? 5000);
      this.#watch.unref();
    } else {
      this.#watch.refresh();
    }
  }

  #lossError(reason: string, cause?: Error): NinelivesError {
    return (
      this.#options.explainLoss?.() ??
      new NinelivesError('NL_STUB_LOST', `the debugger stub is gone: ${reason}`, {
        fix: 'see whether QEMU still runs; attach again when it does',
        ...(cause ? { cause } : {}),
      })
    );
  }

  #lose(error: NinelivesError): void {
    if (this.#lost) return;
    this.#lost = error;
    clearTimeout(this.#watch);
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) one.reject(error);
    this.onLost(error);
  }
}
