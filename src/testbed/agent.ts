/**
 * Commands in dom0, through the shell that listens on the box's second serial port (`guest/agent.sh`). A connection is
 * made for each command, so it does not matter what became of the machine in between.
 */
import { connect } from 'node:net';
import { NinelivesError } from '../common/errors.js';

export interface AgentAnswer {
  readonly status: number;
  /** Standard output and error together. */
  readonly output: string;
}

const ANSWER_LIMIT_MS = 30_000;

export class Dom0Agent {
  readonly #path: string;
  #nextId: number = (Date.now() % 1_000_000) * 1000;
  #last: Promise<unknown> = Promise.resolve();

  /** @param path socket of the serial port */
  constructor(path: string) {
    this.#path = path;
  }

  /**
   * Runs one command line with dom0's shell; one after the other.
   * @throws NL_TIMEOUT when dom0 does not answer in time, NL_QEMU_EXITED when the port is gone
   */
  run(command: string, timeoutMs: number = ANSWER_LIMIT_MS): Promise<AgentAnswer> {
    if (command.includes('\n')) throw new NinelivesError('NL_INTERNAL', 'a command for dom0 is one line');
    const turn = this.#last.then(() => this.#exchange(command, timeoutMs));
    this.#last = turn.catch(() => {});
    return turn;
  }

  #exchange(command: string, timeoutMs: number): Promise<AgentAnswer> {
    const id = String(this.#nextId++);
    return new Promise((resolve, reject) => {
      const socket = connect({ path: this.#path });
      let received = '';
      const finish = (act: () => void): void => {
        clearTimeout(timer);
        socket.destroy();
        act();
      };
      const timer = setTimeout(() => {
        finish(() =>
          reject(
            new NinelivesError('NL_TIMEOUT', `dom0 did not finish "${command}" within ${timeoutMs} ms`, {
              fix: "look at the box's console: dom0 may be stuck",
            }),
          ),
        );
      }, timeoutMs);
      const gone = (cause?: Error): void =>
        finish(() => reject(new NinelivesError('NL_QEMU_EXITED', "the box's serial port is gone", { cause })));
      socket.once('error', gone);
      socket.once('close', () => gone());
      // The empty line ends whatever half a line an earlier connection has left behind.
      socket.once('connect', () => socket.write(`\n${id} ${command}\n`));
      socket.on('data', (data: Buffer) => {
        received += data.toString('latin1');
        const answer = parseAnswer(received, id);
        if (answer) finish(() => resolve(answer));
      });
    });
  }
}

/** The answer to request `id` in what came over the port; `undefined` while it is not complete. */
export function parseAnswer(received: string, id: string): AgentAnswer | undefined {
  const text = received.replaceAll('\r', '');
  const begin = text.indexOf(`+${id} begin\n`);
  if (begin < 0) return undefined;
  const start = begin + `+${id} begin\n`.length;
  const end = new RegExp(`\\n\\+${id} end (\\d+)\\n`).exec(text.slice(start - 1));
  if (!end) return undefined;
  return { status: Number(end[1]), output: text.slice(start, Math.max(start, start - 1 + end.index)) };
}
