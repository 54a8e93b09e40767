import { describe, expect, it } from 'vitest';
import { pingTable } from '../../src/campaign/ping-table.js';

describe('the table of pings', () => {
  it('tells those answered, answered too late and never, by when they were sent, and what happened then', () => {
    const ping = (sentAtMs: number, answeredAtMs?: number) => ({
      to: 'app2',
      n: 0,
      sentAtMs,
      ...(answeredAtMs === undefined ? {} : { answeredAtMs }),
    });
    const pings = [ping(950, 960), ping(1010, 1500), ping(1020, 5000), ping(1090), ping(1110, 1120)];
    const marks = [
      { atMs: 1005, what: 'broken' },
      { atMs: 1250, what: 'resumed' },
    ];
    expect(pingTable(pings, marks, 1000).map((row) => row.split(/ +/).join(' ').trim())).toEqual([
      'ms sent answered late none longest',
      '-100 1 1 0 0 10',
      '0 3 1 1 1 3980 broken at 5.0',
      '100 1 1 0 0 10',
      '200 0 0 0 0 - resumed at 250.0',
    ]);
  });
});
