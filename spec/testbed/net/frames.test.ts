import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  arpReplyFrame,
  arpRequestFrame,
  type Endpoint,
  parseArpRequest,
  parseUdp,
  udpFrame,
} from '../../../src/testbed/net/frames.js';

const byte = fc.integer({ min: 0, max: 255 });
const hex = (value: number): string => value.toString(16).padStart(2, '0');
const station = fc.record({
  mac: fc.array(byte, { minLength: 6, maxLength: 6 }).map((bytes) => bytes.map(hex).join(':')),
  ip: fc.array(byte, { minLength: 4, maxLength: 4 }).map((bytes) => bytes.join('.')),
});
const endpoint: fc.Arbitrary<Endpoint> = fc
  .tuple(station, fc.integer({ min: 0, max: 65535 }))
  .map(([one, port]) => ({ ...one, port }));
const payload = fc.uint8Array({ maxLength: 1472 }).map((bytes) => Buffer.from(bytes));
const datagram = fc.record({ from: endpoint, to: endpoint, payload });

describe('a UDP frame', () => {
  it('is read as it was written, also when the wire makes it longer', () => {
    fc.assert(
      fc.property(datagram, fc.integer({ min: 0, max: 20 }), (sent, padding) => {
        expect(parseUdp(Buffer.concat([udpFrame(sent), Buffer.alloc(padding)]))).toEqual(sent);
      }),
    );
  });

  it('is not read when a byte of its packet is another', () => {
    fc.assert(
      fc.property(datagram, fc.nat(), fc.integer({ min: 1, max: 255 }), (sent, where, change) => {
        const frame = udpFrame(sent);
        const end = 14 + frame.readUInt16BE(16);
        const at = 14 + (where % (end - 14));
        frame[at] = frame[at]! ^ change;
        const read = parseUdp(frame);
        // Ones' complement cannot tell 0x0000 from 0xffff; nothing else may pass.
        if (read !== undefined) expect([0x00, 0xff]).toContain(change === 0xff ? 0xff : frame[at]);
        else expect(read).toBeUndefined();
      }),
    );
  });

  it('has the checksums that another stack computes', () => {
    const sent: Endpoint = { mac: '02:9e:00:00:00:01', ip: '10.9.0.1', port: 9009 };
    const to: Endpoint = { mac: '00:16:3e:09:00:10', ip: '10.9.0.16', port: 7 };
    const frame = udpFrame({ from: sent, to, payload: Buffer.from('ninelives') });
    const words = (from: number, end: number): number => {
      let sum = 0;
      for (let i = from; i < end; i += 2) sum += (frame[i]! << 8) | (i + 1 < end ? frame[i + 1]! : 0);
      return sum;
    };
    const fold = (sum: number): number => (sum & 0xffff) + (sum >> 16);
    expect(fold(fold(words(14, 34)))).toBe(0xffff);
    expect(fold(fold(words(26, 34) + 17 + 17 + words(34, 34 + 17)))).toBe(0xffff);
  });

  it('is nothing when it is another protocol, a fragment, or cut off', () => {
    const frame = udpFrame({
      from: { mac: '02:00:00:00:00:01', ip: '1.2.3.4', port: 1 },
      to: { mac: '02:00:00:00:00:02', ip: '1.2.3.5', port: 2 },
      payload: Buffer.alloc(100),
    });
    for (let length = 0; length < frame.length; length++) expect(parseUdp(frame.subarray(0, length))).toBeUndefined();
    expect(parseUdp(arpRequestFrame({ mac: '02:00:00:00:00:01', ip: '1.2.3.4' }, '1.2.3.5'))).toBeUndefined();
  });

  it('never makes the reader throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        parseUdp(Buffer.from(bytes));
        parseArpRequest(Buffer.from(bytes));
      }),
    );
  });
});

describe('ARP', () => {
  it('is read as it was asked', () => {
    fc.assert(
      fc.property(station, station, (from, { ip }) => {
        expect(parseArpRequest(arpRequestFrame(from, ip))).toEqual({ from, wanted: ip });
      }),
    );
  });

  it('takes an answer for no question', () => {
    const one = { mac: '02:00:00:00:00:01', ip: '1.2.3.4' };
    expect(parseArpRequest(arpReplyFrame(one, { mac: '02:00:00:00:00:02', ip: '1.2.3.5' }))).toBeUndefined();
  });

  it('answers whoever asked, in a frame of the shortest length', () => {
    const frame = arpReplyFrame(
      { mac: '02:00:00:00:00:01', ip: '1.2.3.4' },
      { mac: '02:00:00:00:00:02', ip: '1.2.3.5' },
    );
    expect(frame.toString('hex')).toBe(
      `020000000002020000000001${'0806'}0001080006040002${'02000000000101020304'}${'02000000000201020305'}${'00'.repeat(18)}`,
    );
  });
});
