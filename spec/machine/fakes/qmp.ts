/** A QMP server with scripted answers. */
import { createServer, type Server, type Socket } from 'node:net';

export type QmpAnswer =
  | { return: unknown }
  | { error: { class: string; desc: string } }
  | 'silence'
  | 'cut'
  | 'garbage';

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'fake' }, capabilities: [] } };

export class FakeQmp {
  readonly path: string;
  readonly received: { execute: string; arguments?: Record<string, unknown> }[] = [];
  answer: (command: string, args: Record<string, unknown>) => QmpAnswer = () => ({ return: {} });
  greeting: unknown = GREETING;
  readonly #server: Server;
  #socket: Socket | undefined;

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.path = path;
  }

  static async listen(path: string): Promise<FakeQmp> {
    const server = createServer();
    const fake = new FakeQmp(server, path);
    server.on('connection', (socket) => fake.#accept(socket));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return fake;
  }

  event(name: string, data: Record<string, unknown> = {}): void {
    this.#send({ event: name, data, timestamp: { seconds: 0, microseconds: 0 } });
  }

  /** Writes text as it is, for events cut in pieces. */
  raw(text: string): void {
    this.#socket?.write(text);
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
    if (this.greeting === undefined) return;
    this.#send(this.greeting);
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      const lines = text.split('\n');
      text = lines.pop()!;
      for (const line of lines) this.#handle(JSON.parse(line));
    });
  }

  #handle(message: { execute: string; arguments?: Record<string, unknown>; id: number }): void {
    this.received.push(message);
    const answer =
      message.execute === 'qmp_capabilities' ? { return: {} } : this.answer(message.execute, message.arguments ?? {});
    if (answer === 'silence') return;
    if (answer === 'cut') this.cut();
    else if (answer === 'garbage') this.raw('not json at all\n');
    else this.#send({ ...answer, id: message.id });
  }

  #send(message: unknown): void {
    this.#socket?.write(`${JSON.stringify(message)}\r\n`);
  }
}
