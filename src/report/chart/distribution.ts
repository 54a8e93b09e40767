/** How times are spread: histograms and cumulative curves, both on a logarithmic axis, since latencies differ by ratios. */
import { AXIS_HEIGHT, bottomAxis, drawMarks, leftAxis, type Mark, marksHeight } from './axis.js';
import { linearScale, logScale, type Scale } from './scale.js';
import { type Canvas, element, frame, number } from './svg.js';

export interface HistogramOptions {
  readonly title: string;
  readonly description: string;
  readonly axisTitle: string;
  readonly values: readonly number[];
  /** Shared by all histograms that are to be compared; above 0. */
  readonly domain: readonly [number, number];
  readonly class: string;
  readonly marks: readonly Mark[];
  readonly format: (value: number) => string;
}

const LEFT = 50;
const RIGHT = 14;
const BINS_PER_DECADE = 16;

export function histogram(canvas: Canvas, options: HistogramOptions): string {
  const x = logScale(options.domain, [LEFT, canvas.width - RIGHT], ticksFor(canvas));
  const top = 4 + marksHeight(options.marks, x);
  const bottom = top + 110;
  const bins = logBins(options.values, options.domain, BINS_PER_DECADE);
  const y = linearScale([0, Math.max(1, ...bins.map((bin) => bin.count))], [bottom, top + 6], 3);
  const whole: Scale = { ...y, ticks: y.ticks.filter(Number.isInteger) };
  const bars = bins
    .filter((bin) => bin.count > 0)
    .map((bin) => {
      const [from, to, height] = [x.at(bin.from), x.at(bin.to), bottom - y.at(bin.count)];
      const width = Math.max(1, to - from - 1);
      return element('rect', { class: `fill ${options.class}`, x: from, y: bottom - height, width, height });
    });
  return frame(canvas, bottom + AXIS_HEIGHT.titled, options, [
    leftAxis(whole, String, LEFT, canvas.width - RIGHT),
    bottomAxis({ scale: x, format: options.format, top, bottom, title: options.axisTitle }),
    ...bars,
    drawMarks(options.marks, x, 4, bottom),
  ]);
}

export interface Bin {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

/** Bins of equal ratio; a value outside the domain is counted in the nearest one, so that none is lost. */
export function logBins(values: readonly number[], domain: readonly [number, number], perDecade: number): Bin[] {
  const [low, high] = domain;
  const count = Math.max(1, Math.round(Math.log10(high / low) * perDecade));
  const counts = new Array<number>(count).fill(0);
  for (const value of values) {
    const place = value <= low ? 0 : Math.floor((Math.log(value / low) / Math.log(high / low)) * count);
    const index = Math.min(count - 1, Math.max(0, place));
    counts[index] = (counts[index] ?? 0) + 1;
  }
  const edge = (index: number): number => low * (high / low) ** (index / count);
  return counts.map((n, index) => ({ from: edge(index), to: edge(index + 1), count: n }));
}

export interface Curve {
  readonly values: readonly number[];
  /** Class of its colour and dashes. */
  readonly class: string;
}

export interface CurvesOptions {
  readonly title: string;
  readonly description: string;
  readonly axisTitle: string;
  readonly domain: readonly [number, number];
  readonly curves: readonly Curve[];
  readonly marks: readonly Mark[];
  readonly format: (value: number) => string;
}

/** For each time, the share of values that are not above it. */
export function curves(canvas: Canvas, options: CurvesOptions): string {
  const x = logScale(options.domain, [LEFT, canvas.width - RIGHT], ticksFor(canvas));
  const top = 12 + marksHeight(options.marks, x);
  const bottom = top + 200;
  const y = linearScale([0, 1], [bottom, top], 4);
  const quarters: Scale = { ...y, ticks: [0, 0.25, 0.5, 0.75, 1] };
  const lines = options.curves.map((curve) =>
    element('path', { class: `curve ${curve.class}`, d: stepPath(curve.values, x, y) }),
  );
  return frame(canvas, bottom + AXIS_HEIGHT.titled, options, [
    leftAxis(quarters, (value) => `${value * 100} %`, LEFT, canvas.width - RIGHT),
    bottomAxis({ scale: x, format: options.format, top, bottom, title: options.axisTitle }),
    ...lines,
    drawMarks(options.marks, x, 4, bottom),
  ]);
}

const ticksFor = (canvas: Canvas): number => Math.max(4, Math.floor(canvas.width / 48));

/** More steps than this cannot be told apart in a picture. */
const STEPS_SHOWN = 240;

function stepPath(values: readonly number[], x: Scale, y: Scale): string {
  if (values.length === 0) return '';
  const sorted = [...values].sort((a, b) => a - b);
  const every = Math.max(1, Math.ceil(sorted.length / STEPS_SHOWN));
  let path = `M${number(x.at(x.low))} ${number(y.at(0))}`;
  for (const [index, value] of sorted.entries()) {
    const last = index === sorted.length - 1;
    if (index % every !== 0 && !last) continue;
    path += `H${number(x.at(value))}V${number(y.at((index + 1) / sorted.length))}`;
  }
  return `${path}H${number(x.at(x.high))}`;
}
