import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodePacket, type Frame, PacketDecoder } from '../../../src/machine/rsp/codec.js';

const decode = (...chunks: (string | Buffer)[]): Frame[] => {
  const decoder = new PacketDecoder();
  return chunks.flatMap((chunk) => decoder.push(typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk));
};

const payloads = fc.oneof(
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  // Runs and the characters that need care are rare among random bytes.
  fc
    .array(fc.tuple(fc.constantFrom('0', 'x', '#', '$', '}', '*', '\x03', '+'), fc.integer({ min: 1, max: 250 })))
    .map((runs) => runs.map(([character, count]) => character.repeat(count)).join('')),
);
const compressions = fc.constantFrom('none' as const, 'run-length' as const);

describe('packet codec', () => {
  it('gives back any payload, however it is written and however the bytes are cut', () => {
    fc.assert(
      fc.property(payloads, compressions, fc.array(fc.nat(400)), (payload, compression, cuts) => {
        const wire = Buffer.from(encodePacket(payload, compression), 'latin1');
        const edges = [0, ...cuts.map((cut) => cut % (wire.length + 1)).sort((a, b) => a - b), wire.length];
        const pieces = edges.slice(1).map((edge, i) => wire.subarray(edges[i], edge));
        expect(decode(...pieces)).toEqual([{ kind: 'packet', payload }]);
      }),
    );
  });

  it('never takes a packet with one changed byte for a good one with another payload', () => {
    fc.assert(
      fc.property(payloads, fc.nat(), fc.integer({ min: 1, max: 255 }), (payload, where, change) => {
        const wire = Buffer.from(encodePacket(payload), 'latin1');
        const at = 1 + (where % (wire.length - 1));
        wire[at] = wire[at]! ^ change;
        for (const frame of decode(wire))
          if (frame.kind === 'packet' && at < wire.length - 2) expect(frame.payload).not.toBe(payload);
      }),
    );
  });

  it('survives any bytes', () => {
    fc.assert(fc.property(fc.array(fc.uint8Array()), (chunks) => void decode(...chunks.map((c) => Buffer.from(c)))));
  });

  it('reads the run of the protocol manual: "0* " is four zeros', () => {
    expect(decode('$0* #7a')).toEqual([{ kind: 'packet', payload: '0000' }]);
  });

  it('tells a wrong checksum, and reads the packet after it', () => {
    expect(decode('$OK#00$OK#9a')).toEqual([
      { kind: 'corrupt', reason: 'checksum 00, expected 9a' },
      { kind: 'packet', payload: 'OK' },
    ]);
  });

  it('tells acks, interrupts and noise apart', () => {
    expect(decode('+-\x03zzz$#00').map((frame) => frame.kind)).toEqual(['ack', 'nack', 'interrupt', 'noise', 'packet']);
  });

  it('refuses a run that repeats nothing', () => {
    expect(decode('$* #4a')[0]?.kind).toBe('corrupt');
  });

  it('does not collect without end what never becomes a packet', () => {
    expect(decode(`$${'a'.repeat(1 << 20)}`)).toEqual([{ kind: 'corrupt', reason: 'packet without end' }]);
  });
});
