import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { guestStation, OUTSIDE } from '../../src/testbed/net/addresses.js';
import { arpReplyFrame, arpRequestFrame, type Datagram, parseUdp, udpFrame } from '../../src/testbed/net/frames.js';
import { FrameReader, prefixed } from '../../src/testbed/net/stream.js';
import { OutsideHost } from '../../src/testbed/outside-host.js';

const NEIGHBOURS = [
  { name: 'app1', station: guestStation(0) },
  { name: 'app2', station: guestStation(1) },
];

/** The other end of the cable: what QEMU and the guests behind it are. */
class Cable {
  readonly frames: Buffer[] = [];
  /** What comes back for a datagram. */
  answer: (sent: Datagram) => Datagram | undefined = ({ from, to, payload }) => ({ from: to, to: from, payload });
  readonly #server: Server;
  #peer: Socket | undefined;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#peer = socket;
      const reader = new FrameReader();
      socket.on('error', () => {});
      socket.on('data', (piece: Buffer) => {
        for (const frame of reader.push(piece)) {
          this.frames.push(Buffer.from(frame));
          const datagram = parseUdp(frame);
          const back = datagram && this.answer(datagram);
          if (back) this.send(udpFrame(back));
        }
      });
    }).listen(path);
  }

  send(frame: Buffer): void {
    this.#peer?.write(prefixed(frame));
  }

  close(): void {
    this.#peer?.destroy();
    this.#server.close();
  }
}

describe('the host outside', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ninelives-net-'));
  const path = join(folder, 'outside.sock');
  let cable: Cable;
  let host: OutsideHost;
  beforeEach(async () => {
    cable = new Cable(path);
    host = await OutsideHost.connect(path, NEIGHBOURS, { periodMs: 4 });
  });
  afterEach(() => {
    host[Symbol.dispose]();
    cable.close();
    rmSync(path, { force: true });
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const until = async (holds: () => boolean): Promise<void> => {
    for (let i = 0; !holds() && i < 1000; i++) await sleep(5);
    expect(holds()).toBe(true);
  };
  const answered = (name?: string): number => host.pings(name).filter((ping) => ping.answeredAtMs !== undefined).length;

  it('sends nothing before it is told to', async () => {
    await sleep(30);
    expect(cable.frames).toEqual([]);
    expect(host.holds()).toHaveLength(1);
  });

  it('pings all its neighbours in turn and notes the answers', async () => {
    host.resume();
    await until(() => answered('app1') > 5 && answered('app2') > 5);
    const pings = host.pings();
    expect(pings.map(({ n }) => n)).toEqual(pings.map((_, i) => i));
    for (const { sentAtMs, answeredAtMs = Number.POSITIVE_INFINITY } of pings.slice(0, 5))
      expect(answeredAtMs).toBeGreaterThanOrEqual(sentAtMs);
    expect(host.damagedAnswers).toBe(0);
  });

  it('sends nothing while it is paused, and says when that was', async () => {
    host.resume();
    await until(() => answered() > 3);
    host.pause();
    await sleep(20);
    const sent = host.pings().length;
    await sleep(50);
    expect(host.pings()).toHaveLength(sent);
    host.resume();
    await until(() => host.pings().length > sent);
    const hold = host.holds()[1]!;
    expect(hold.endMs! - hold.startMs).toBeGreaterThanOrEqual(65);
    for (const { sentAtMs } of host.pings()) expect(sentAtMs < hold.startMs || sentAtMs >= hold.endMs!).toBe(true);
  });

  it('takes no ping for answered whose bytes are others, or that another VM answers', async () => {
    cable.answer = ({ from, to, payload }) => {
      const wrong = Buffer.from(payload);
      wrong[40] = wrong[40]! ^ 1;
      const other = { ...guestStation(to.ip === guestStation(0).ip ? 1 : 0), port: to.port };
      return payload.readUInt32BE(4) % 4 < 2
        ? { from: to, to: from, payload: wrong }
        : { from: other, to: from, payload };
    };
    host.resume();
    await until(() => host.damagedAnswers > 8);
    expect(answered()).toBe(0);
  });

  it('counts the first answer of several', async () => {
    cable.answer = ({ from, to, payload }) => {
      const back = { from: to, to: from, payload: Buffer.from(payload) };
      setTimeout(() => cable.send(udpFrame(back)), 30);
      return back;
    };
    host.resume();
    await until(() => answered() > 5);
    const first = host.pings()[0]!.answeredAtMs;
    await sleep(60);
    expect(host.pings()[0]!.answeredAtMs).toBe(first);
  });

  it('says who it is when it is asked, and only then', async () => {
    const asker = guestStation(0);
    cable.send(arpRequestFrame(asker, '10.9.0.99'));
    cable.send(arpRequestFrame(asker, OUTSIDE.ip));
    await until(() => cable.frames.length > 0);
    expect(cable.frames).toEqual([arpReplyFrame(OUTSIDE, asker)]);
  });

  it('forgets its pings when it is connected anew, and does not know answers to the old ones', async () => {
    const old: Datagram[] = [];
    cable.answer = (sent) => {
      old.push({ from: sent.to, to: sent.from, payload: Buffer.from(sent.payload) });
      return undefined;
    };
    host.resume();
    await until(() => old.length > 5);
    await host.reconnect();
    expect(host.pings()).toEqual([]);
    host.resume();
    await until(() => host.pings().length > 5);
    for (const late of old.slice(0, 5)) cable.send(udpFrame(late));
    await sleep(50);
    expect(answered()).toBe(0);
    expect(host.damagedAnswers).toBe(0);
  });

  it('goes on without an error when the machine is gone', async () => {
    host.resume();
    await until(() => answered() > 3);
    cable.close();
    await sleep(30);
    const sent = host.pings().length;
    await sleep(30);
    expect(host.pings()).toHaveLength(sent);
    await expect(host.reconnect()).rejects.toMatchObject({ code: 'NL_QEMU_EXITED' });
  });
});
