/**
 * How `inject` reaches a box that is guarded: the debugger stub serves one client, and that is the guard. So the guard
 * listens on a socket of its own and injects on request; it then recovers the box as from any other failure.
 */
import { createHash } from 'node:crypto';
import { existsSync, realpathSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { isNinelivesError, NinelivesError } from '../common/errors.js';
import { type InjectionPoint, type Planned, plannedSchema } from '../inject/index.js';

/** What an injection did: where it hit, and what the fault changed. */
export interface Done {
  readonly point: InjectionPoint;
  readonly what: string;
}

const requestSchema = z.object({ planned: plannedSchema });
const answerSchema = z.union([
  z.object({
    point: z.object({
      cpu: z.int(),
      vcpu: z.string(),
      at: z.string(),
      hypercall: z.string().optional(),
      backtrace: z.array(z.string()),
      steps: z.int(),
    }),
    what: z.string(),
  }),
  z.object({ error: z.string() }),
]);

/** A request is one line, and so is its answer. */
const LINE_LIMIT = 100_000;

/** Where the guard of the box with this QMP socket listens. */
export function guardSocketPath(qmpPath: string): string {
  const real = existsSync(qmpPath) ? realpathSync(qmpPath) : qmpPath;
  const mark = createHash('sha256').update(real).digest('hex').slice(0, 16);
  const { XDG_RUNTIME_DIR } = process.env;
  const folder = XDG_RUNTIME_DIR !== undefined && existsSync(XDG_RUNTIME_DIR) ? XDG_RUNTIME_DIR : tmpdir();
  return join(folder, `ninelives-guard-u${process.getuid?.() ?? 0}-${mark}.sock`);
}

/** Listens until it is disposed. One request at a time; `inject` says what came of it. */
export async function listenForInjections(
  qmpPath: string,
  inject: (planned: Planned) => Promise<Done>,
): Promise<Disposable> {
  const path = guardSocketPath(qmpPath);
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    socket.on('error', () => {}); // Whoever asked has gone.
    serve(socket, inject).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  // The socket must not keep the guard alive by itself.
  server.unref();
  return {
    [Symbol.dispose]: () => {
      server.close();
      rmSync(path, { force: true });
    },
  };
}

async function serve(socket: Socket, inject: (planned: Planned) => Promise<Done>): Promise<void> {
  const { planned } = requestSchema.parse(JSON.parse(await readLine(socket)));
  const answer = await inject(planned).catch((error: unknown) => ({
    error: error instanceof Error ? error.message : String(error),
  }));
  socket.end(`${JSON.stringify(answer)}\n`);
}

/**
 * Asks the guard of a box to inject; `undefined` when there is none.
 * @throws NL_STUB_BUSY when the guard cannot do it now
 */
export async function askGuard(qmpPath: string, planned: Planned): Promise<Done | undefined> {
  const socket = await connectTo(guardSocketPath(qmpPath));
  if (socket === undefined) return undefined;
  try {
    socket.write(`${JSON.stringify({ planned })}\n`);
    const answer = answerSchema.parse(JSON.parse(await readLine(socket)));
    if ('error' in answer) throw busy(answer.error);
    const { hypercall, ...point } = answer.point;
    return { point: hypercall === undefined ? point : { ...point, hypercall }, what: answer.what };
  } catch (error) {
    throw isNinelivesError(error) ? error : busy('it ended, or said something that cannot be read');
  } finally {
    socket.destroy();
  }
}

const busy = (why: string): NinelivesError =>
  new NinelivesError('NL_STUB_BUSY', `the guard of this box could not inject: ${why}`, {
    fix: 'look at what the guard printed, or end it and try again',
  });

function connectTo(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => resolve(socket));
    socket.once('error', () => resolve(undefined));
  });
}

function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end >= 0) resolve(text.slice(0, end));
      else if (text.length > LINE_LIMIT) reject(new Error('too long a line'));
    });
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the connection was closed')));
  });
}
