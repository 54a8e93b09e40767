import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { placeMarks } from '../../../src/report/chart/axis.js';
import { curves, logBins } from '../../../src/report/chart/distribution.js';
import { forest, rateDomain } from '../../../src/report/chart/forest.js';
import { logScale } from '../../../src/report/chart/scale.js';
import { stacked } from '../../../src/report/chart/stacked.js';
import { fitText, textWidth } from '../../../src/report/chart/svg.js';

const CANVAS = { width: 400, id: 'x' };

describe('text in charts', () => {
  it('is cut with an ellipsis where it does not fit', () => {
    expect(fitText('schedule', 400)).toBe('schedule');
    const cut = fitText('a_function_with_a_very_long_name', 100);
    expect(cut).toMatch(/^a_func.*…$/);
    expect(textWidth(cut)).toBeLessThanOrEqual(100);
    expect(fitText('schedule', 3)).toBe('');
  });
});

describe('marks', () => {
  const scale = logScale([1, 1000], [40, 340]);

  it('never have labels over each other', () => {
    const values = fc.array(fc.double({ min: 1, max: 1000, noNaN: true }), { minLength: 1, maxLength: 7 });
    fc.assert(
      fc.property(values, (some) => {
        const placed = placeMarks(
          some.map((value) => ({ value, text: `p99 ${value.toFixed(1)} ms`, class: 'quantile' })),
          scale,
        );
        for (const [index, one] of placed.entries())
          for (const other of placed.slice(index + 1))
            if (one.row === other.row) expect(one.right <= other.left || other.right <= one.left).toBe(true);
      }),
    );
  });

  it('keep their labels inside the picture', () => {
    const [end] = placeMarks([{ value: 990, text: 'ReHype 713 ms', class: 'rehype' }], scale);
    expect(end?.right).toBeLessThanOrEqual(343);
    expect(end?.left).toBeGreaterThan(0);
  });
});

describe('a forest plot', () => {
  const row = { name: 'ours', figure: '98.0 % [90.0, 99.0]', share: 0.98, low: 0.9, high: 0.99, class: 'ours' };
  const options = {
    title: 'T & t',
    description: 'D',
    axisTitle: 'share',
    domain: [0.8, 1] as const,
    mark: 'dot' as const,
  };

  it('draws a dot for the share and a whisker for its interval', () => {
    const svg = forest(CANVAS, { ...options, groups: [{ rows: [row] }] });
    const dot = /<circle[^>]*cx="([\d.]+)"/.exec(svg)?.[1];
    const [, low, high] = /<path class="whisker[^"]*" d="M([\d.]+) [^H]*H([\d.]+)M/.exec(svg) ?? [];
    const at = (share: number): number => 4 + ((share - 0.8) / 0.2) * 392;
    expect(Number(dot)).toBeCloseTo(at(0.98), 1);
    expect(Number(low)).toBeCloseTo(at(0.9), 1);
    expect(Number(high)).toBeCloseTo(at(0.99), 1);
  });

  it('is told to those who do not see it', () => {
    const svg = forest(CANVAS, { ...options, groups: [{ rows: [row] }] });
    expect(svg).toContain('role="img" aria-labelledby="x-t x-d"');
    expect(svg).toContain('<title id="x-t">T &amp; t</title><desc id="x-d">D</desc>');
  });

  it('shows a row without trials without a mark', () => {
    const svg = forest(CANVAS, { ...options, groups: [{ rows: [{ ...row, share: Number.NaN, figure: 'none yet' }] }] });
    expect(svg).toContain('none yet');
    expect(svg).not.toContain('<circle');
    expect(svg).not.toContain('NaN');
  });

  it('begins its axis below the lowest interval, or at 0', () => {
    expect(rateDomain([0.87, 0.93])).toEqual([0.8, 1]);
    expect(rateDomain([0.1])).toEqual([0, 1]);
    expect(rateDomain([])).toEqual([0, 1]);
    expect(rateDomain([Number.NaN, 0.9])).toEqual([0.8, 1]);
  });
});

describe('stacked bars', () => {
  it('draw each part as long as its value', () => {
    const parts = [
      { value: 30, class: 'good', text: '30' },
      { value: 0, class: 'bad' },
      { value: 10, class: 'calm' },
    ];
    const svg = stacked(CANVAS, {
      title: 'T',
      description: 'D',
      axisTitle: 'runs',
      format: String,
      rows: [{ name: 'all', figure: '40', parts }],
    });
    const widths = [...svg.matchAll(/<rect class="fill (\w+)"[^>]* width="([\d.]+)"/g)].map(([, name, width]) => [
      name,
      Math.round(Number(width)),
    ]);
    expect(widths).toEqual([
      ['good', 293],
      ['calm', 97],
    ]);
  });

  it('stand empty without values', () => {
    const svg = stacked(CANVAS, { title: 'T', description: 'D', axisTitle: 'runs', format: String, rows: [] });
    expect(svg).not.toContain('NaN');
  });
});

describe('distributions', () => {
  it('count every value in one bin, those outside in the nearest', () => {
    const values = fc.array(fc.double({ min: 0, max: 1e5, noNaN: true }));
    fc.assert(
      fc.property(values, (some) => {
        const bins = logBins(some, [1, 1000], 16);
        expect(bins.length).toBe(48);
        expect(bins.reduce((sum, bin) => sum + bin.count, 0)).toBe(some.length);
      }),
    );
  });

  it('rise from nothing to all', () => {
    const svg = curves(CANVAS, {
      title: 'T',
      description: 'D',
      axisTitle: 'ms',
      domain: [1, 100],
      curves: [{ values: [10, 5, 20], class: 's0' }],
      marks: [],
      format: String,
    });
    const heights = [...(/class="curve s0" d="([^"]+)"/.exec(svg)?.[1] ?? '').matchAll(/V([\d.]+)/g)].map(([, y]) =>
      Number(y),
    );
    expect(heights.length).toBe(3);
    expect(heights).toEqual([...heights].sort((a, b) => b - a));
    expect(heights.at(-1)).toBe(12);
  });
});
