/**
 * QEMU's control channel (QMP): commands with ids, events by subscription, and the text monitor (HMP) through it.
 * Commands are pipelined; QEMU answers them in order.
 */
import { connect, type Socket } from 'node:net';
import { NinelivesError } from '../common/errors.js';

export interface QmpEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** When we received it, performance.now(). */
  readonly atMs: number;
  /** When it happened, by QEMU's own clock: milliseconds since the epoch, to the microsecond. */
  readonly happenedMs: number;
}

export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  readonly package: string;
}

export interface QmpOptions {
  /** Limit for the greeting; without one, another client holds the socket. Default 3000 ms. */
  readonly greetingLimitMs?: number;
  /** Why the connection was lost, if the owner knows better (for example: QEMU ended). */
  readonly explainLoss?: () => NinelivesError | undefined;
}

interface Waiting {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

type Message = Readonly<Record<string, unknown>>;

export class Qmp {
  readonly #socket: Socket;
  readonly #options: QmpOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #greeting: { resolve: (version: QmpVersion) => void; reject: (error: Error) => void } | undefined;
  #text = '';
  #outgoing = '';
  #nextId = 1;
  #lost: NinelivesError | undefined;
  #version: QmpVersion = { major: 0, minor: 0, micro: 0, package: '' };

  /** Called once when the connection is gone, for whatever reason but `close()`. */
  onLost: (error: NinelivesError) => void = () => {};

  private constructor(socket: Socket, options: QmpOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => this.#receive(chunk));
    socket.on('close', () => this.#lose(this.#lossError('the socket was closed')));
    socket.on('error', (error) => this.#lose(this.#lossError(error.message, error)));
  }

  /**
   * Connects and negotiates.
   * @throws NL_QMP_LOST when nobody listens there or when no greeting comes (another client holds the socket).
   */
  static async open(path: string, options: QmpOptions = {}): Promise<Qmp> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', () => {
        socket.removeAllListeners('error');
        resolve();
      });
      socket.once('error', (error) =>
        reject(
          new NinelivesError('NL_QMP_LOST', `no QMP socket at ${path}: ${error.message}`, {
            fix: 'give the path of the -qmp unix:PATH,server=on,wait=off option of a running QEMU',
            cause: error,
          }),
        ),
      );
    });
    const qmp = new Qmp(socket, options);
    try {
      qmp.#version = await qmp.#awaitGreeting(path);
      await qmp.execute('qmp_capabilities');
    } catch (error) {
      qmp.close();
      throw error;
    }
    return qmp;
  }

  get version(): QmpVersion {
    return this.#version;
  }

  /** Runs a command; its return value. @throws NL_QMP_ERROR when QEMU refuses, NL_QMP_LOST when the socket is gone. */
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#lost) return Promise.reject(this.#lost);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { command, resolve, reject });
      this.#enqueue(`${JSON.stringify({ execute: command, ...(args ? { arguments: args } : {}), id })}\n`);
    });
  }

  /** Runs a text monitor command, on one CPU where given; its output with `\n` line ends. */
  async hmp(commandLine: string, cpu?: number): Promise<string> {
    const text = await this.execute('human-monitor-command', {
      'command-line': commandLine,
      ...(cpu === undefined ? {} : { 'cpu-index': cpu }),
    });
    return String(text).replaceAll('\r\n', '\n');
  }

  /** Calls `listener` with each event from now on. Returns the end of the subscription. */
  subscribe(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The next event that `matches`. @throws NL_TIMEOUT, NL_QMP_LOST */
  async waitFor(matches: (event: QmpEvent) => boolean, limitMs: number, what: string): Promise<QmpEvent> {
    const previous = this.onLost;
    return new Promise<QmpEvent>((resolve, reject) => {
      if (this.#lost) {
        reject(this.#lost);
        return;
      }
      const end = (act: () => void): void => {
        clearTimeout(timer);
        unsubscribe();
        this.onLost = previous;
        act();
      };
      const unsubscribe = this.subscribe((event) => {
        if (matches(event)) end(() => resolve(event));
      });
      const timer = setTimeout(
        () => end(() => reject(new NinelivesError('NL_TIMEOUT', `${what} did not come in ${limitMs} ms`))),
        limitMs,
      );
      this.onLost = (error) => {
        end(() => reject(error));
        previous(error);
      };
    });
  }

  close(): void {
    this.onLost = () => {};
    this.#lose(new NinelivesError('NL_QMP_LOST', 'the QMP connection was closed by us'));
    this.#socket.end();
    this.#socket.destroySoon();
  }

  async #awaitGreeting(path: string): Promise<QmpVersion> {
    return new Promise<QmpVersion>((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new NinelivesError('NL_QMP_LOST', `${path} accepts but does not greet`, {
              fix: 'close the other QMP client (QEMU serves one per socket), or start QEMU with a second -qmp socket',
            }),
          ),
        this.#options.greetingLimitMs ?? 3000,
      );
      this.#greeting = {
        resolve: (version) => {
          clearTimeout(timer);
          resolve(version);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
    });
  }

  /** Commands of one turn leave in one write: QEMU's monitor thread wakes once for all of them. */
  #enqueue(line: string): void {
    if (this.#outgoing === '')
      queueMicrotask(() => {
        const data = this.#outgoing;
        this.#outgoing = '';
        if (!this.#lost) this.#socket.write(data);
      });
    this.#outgoing += line;
  }

  #receive(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      if (line.trim() === '') continue;
      const message = parseMessage(line);
      if (!message) {
        this.#lose(new NinelivesError('NL_QMP_ERROR', `not QMP: "${line.slice(0, 80)}"`));
        this.#socket.destroy();
        return;
      }
      this.#handle(message);
    }
  }

  #handle(message: Message): void {
    if ('QMP' in message) {
      this.#greeting?.resolve(readVersion(message.QMP));
      return;
    }
    if (typeof message.event === 'string') {
      const { seconds, microseconds } = asRecord(message.timestamp);
      const event: QmpEvent = {
        name: message.event,
        data: asRecord(message.data),
        atMs: performance.now(),
        happenedMs: Number(seconds) * 1000 + Number(microseconds) / 1000,
      };
      for (const listener of [...this.#listeners]) listener(event);
      return;
    }
    const waiting = this.#waiting.get(Number(message.id));
    if (!waiting) return;
    this.#waiting.delete(Number(message.id));
    if ('error' in message) {
      const { desc } = asRecord(message.error);
      waiting.reject(new NinelivesError('NL_QMP_ERROR', `QEMU refused "${waiting.command}": ${String(desc)}`));
    } else {
      waiting.resolve(message.return);
    }
  }

  #lossError(reason: string, cause?: Error): NinelivesError {
    return (
      this.#options.explainLoss?.() ??
      new NinelivesError('NL_QMP_LOST', `the QMP connection is gone: ${reason}`, {
        fix: 'see whether QEMU still runs; attach again when it does',
        ...(cause ? { cause } : {}),
      })
    );
  }

  #lose(error: NinelivesError): void {
    if (this.#lost) return;
    this.#lost = error;
    this.#greeting?.reject(error);
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
    this.onLost(error);
  }
}

function parseMessage(line: string): Message | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Message) : undefined;
  } catch {
    return undefined;
  }
}

/** A JSON value as an object; {} when it is anything else. */
export const asRecord = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {};

function readVersion(greeting: unknown): QmpVersion {
  const version = asRecord(asRecord(greeting).version);
  const qemu = asRecord(version.qemu);
  return {
    major: Number(qemu.major ?? 0),
    minor: Number(qemu.minor ?? 0),
    micro: Number(qemu.micro ?? 0),
    package: String(version.package ?? ''),
  };
}
