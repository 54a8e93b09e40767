import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { GuestRam } from '../../src/machine/ram.js';
import { findReportPages, parseReport, ReportReader } from '../../src/testbed/reports.js';

const MAGIC = `NL${'0123456789abcdef'.repeat(2).slice(2)}`;
const DIGEST = createHash('sha256').update('x').digest('hex');

function pageOf(text: string): Uint8Array {
  const page = new Uint8Array(4096);
  page.set(Buffer.from(text, 'latin1'));
  return page;
}

const line = (name: string, n: number, end: number = n): string =>
  `${MAGIC} ${name} pv n=${n} digest=${DIGEST} errors=0 note=- end=${end}\n`;

/** RAM that is not mapped, of these pages. */
function fakeRam(pages: (Uint8Array | undefined)[]): GuestRam {
  return {
    kind: 'process',
    size: pages.length * 4096,
    segments: [{ start: 0, end: pages.length * 4096, offset: 0 }],
    page: (frame) => pages[frame],
    read: () => new Uint8Array(),
    write: () => {},
    invalidate: () => {},
    warm: () => {},
    [Symbol.dispose]: () => {},
  };
}

describe('a report page', () => {
  it('is read', () => {
    expect(parseReport(pageOf(line('app1', 12)), MAGIC)).toEqual({
      name: 'app1',
      kind: 'pv',
      n: 12,
      digest: DIGEST,
      errors: 0,
      note: '-',
      work: 'files',
    });
  });

  it('is ignored while it is half written', () => {
    expect(parseReport(pageOf(line('app1', 12, 11)), MAGIC)).toBeUndefined();
    const old = line('app1', 12);
    const fresh = line('app1', 13);
    for (let cut = 0; cut < fresh.length; cut++) {
      const report = parseReport(pageOf(fresh.slice(0, cut) + old.slice(cut)), MAGIC);
      expect(report === undefined || report.n === 12 || report.n === 13).toBe(true);
    }
  });

  it('is ignored when it is of another box, empty or not ended', () => {
    expect(parseReport(pageOf(line('app1', 1)), MAGIC.replace('NL', 'XX'))).toBeUndefined();
    expect(parseReport(new Uint8Array(4096), MAGIC)).toBeUndefined();
    expect(parseReport(pageOf(line('app1', 1).trimEnd()), MAGIC)).toBeUndefined();
    expect(parseReport(pageOf(MAGIC), MAGIC)).toBeUndefined();
  });

  it('ignores what an older, longer report has left behind it', () => {
    expect(parseReport(pageOf(`${line('app1', 5)}3 end=123\n`), MAGIC)?.n).toBe(5);
  });
});

describe('the reader', () => {
  it('finds pages by the magic at their start only', () => {
    const inside = pageOf(` ${line('app1', 1)}`);
    expect(findReportPages(fakeRam([undefined, inside, pageOf(line('app1', 1))]), MAGIC)).toEqual([2]);
  });

  it('takes the furthest report of each VM', () => {
    const pages = [pageOf(line('app1', 7)), pageOf(line('app1', 8)), pageOf(line('app2', 3)), pageOf(line('app1', 2))];
    const ram = fakeRam(pages);
    const reader = new ReportReader(() => ram, MAGIC);
    reader.rescan();
    expect(reader.read().map(({ name, n }) => [name, n])).toEqual([
      ['app1', 8],
      ['app2', 3],
    ]);
  });

  it('sees what is written into a known page, and a moved page after a scan', () => {
    const pages: Uint8Array[] = [pageOf(line('app1', 7)), new Uint8Array(4096)];
    const ram = fakeRam(pages);
    const reader = new ReportReader(() => ram, MAGIC, [0]);
    pages[0]!.set(Buffer.from(line('app1', 9)));
    expect(reader.read()[0]?.n).toBe(9);
    pages[1]!.set(Buffer.from(line('app1', 10)));
    expect(reader.read()[0]?.n).toBe(9);
    reader.rescan();
    expect(reader.read()[0]?.n).toBe(10);
  });
});
