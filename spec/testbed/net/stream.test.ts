import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FrameReader, prefixed } from '../../../src/testbed/net/stream.js';

const frames = fc.array(fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)));

describe('frames over a stream', () => {
  it('come out as they went in, however the stream is cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), (sent, cuts) => {
        const stream = Buffer.concat(sent.map(prefixed));
        const reader = new FrameReader();
        const got: string[] = [];
        for (let at = 0, i = 0; at < stream.length; i++) {
          const length = cuts[i % cuts.length]!;
          for (const frame of reader.push(stream.subarray(at, at + length))) got.push(frame.toString('hex'));
          at += length;
        }
        expect(got).toEqual(sent.map((frame) => frame.toString('hex')));
      }),
    );
  });

  it('refuses a length that no frame has', () => {
    expect(() => new FrameReader().push(Buffer.from([0xff, 0, 0, 0]))).toThrow(RangeError);
  });
});
