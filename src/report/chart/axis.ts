/** Axes, grid lines, and marks with labels that never lie over each other. */
import type { Scale } from './scale.js';
import { element, label, textWidth } from './svg.js';

export interface AxisOptions {
  readonly scale: Scale;
  readonly format: (value: number) => string;
  /** Top and bottom of the grid lines; labels are below the bottom. */
  readonly top: number;
  readonly bottom: number;
  readonly title?: string;
}

/** Space that `bottomAxis` takes below its bottom line, in units. */
export const AXIS_HEIGHT = { plain: 20, titled: 38 } as const;

const BELOW = 15;
const TITLE_BELOW = 32;

/** A horizontal axis with its grid. Labels that would touch their left neighbour are left out, their lines are kept. */
export function bottomAxis({ scale, format, top, bottom, title }: AxisOptions): string {
  const parts: string[] = [];
  const [from, to] = [scale.at(scale.low), scale.at(scale.high)];
  let free = Number.NEGATIVE_INFINITY;
  for (const tick of scale.ticks) {
    const x = scale.at(tick);
    parts.push(element('line', { class: 'grid', x1: x, x2: x, y1: top, y2: bottom }));
    const text = format(tick);
    const half = textWidth(text) / 2;
    // The first and last label lean inwards, so that none sticks out of the picture.
    const middle = Math.min(Math.max(x, from - 3 + half), to + 3 - half);
    if (middle - half < free) continue;
    parts.push(label(middle, bottom + BELOW, text, { anchor: 'middle', class: 'tick' }));
    free = middle + half + 6;
  }
  parts.push(element('line', { class: 'axis', x1: from, x2: to, y1: bottom, y2: bottom }));
  if (title !== undefined)
    parts.push(label((from + to) / 2, bottom + TITLE_BELOW, title, { anchor: 'middle', class: 'axis-title' }));
  return parts.join('');
}

/** A vertical axis: labels left of `left`, grid lines to `right`. */
export function leftAxis(scale: Scale, format: (value: number) => string, left: number, right: number): string {
  return scale.ticks
    .map((tick) => {
      const y = scale.at(tick);
      return (
        element('line', { class: 'grid', x1: left, x2: right, y1: y, y2: y }) +
        label(left - 6, y + 4, format(tick), { anchor: 'end', class: 'tick' })
      );
    })
    .join('');
}

/** A vertical line at a value that has a name: a quantile, a published figure. */
export interface Mark {
  readonly value: number;
  readonly text: string;
  readonly class: string;
}

const MARK_ROW = 16;

/** Height of the rows of labels that `marks` needs above the plot. */
export const marksHeight = (marks: readonly Mark[], scale: Scale): number =>
  marks.length === 0 ? 0 : (Math.max(...placeMarks(marks, scale).map(({ row }) => row)) + 1) * MARK_ROW + 2;

/**
 * Lines through the plot, labels in rows above it; the rows begin at `top`, the plot at `top + marksHeight(...)`. Labels are drawn over
 * the lines, on a ground of their own (class `mark-text`), so that a line which has to pass a label passes behind it.
 */
export function drawMarks(marks: readonly Mark[], scale: Scale, top: number, bottom: number): string {
  const placed = placeMarks(marks, scale);
  const rows = Math.max(0, ...placed.map(({ row }) => row)) + 1;
  const textAt = (row: number): number => top + (rows - 1 - row) * MARK_ROW + 12;
  const lines = placed.map(({ mark, row }) => {
    const x = scale.at(mark.value);
    return element('line', { class: `mark ${mark.class}`, x1: x, x2: x, y1: textAt(row) - 10, y2: bottom });
  });
  const labels = placed.map(({ mark, row, left }) =>
    label(left, textAt(row), mark.text, { class: `mark-text ${mark.class}` }),
  );
  return lines.join('') + labels.join('');
}

export interface PlacedMark {
  readonly mark: Mark;
  /** 0 is the row next to the plot. */
  readonly row: number;
  /** Ends of its label. */
  readonly left: number;
  readonly right: number;
}

/**
 * A label stands right of its line, or left of it where it would pass the end of the axis. From right to left each gets the lowest row in
 * which it touches neither another label nor the line of one above it: then lines pass left of the labels below them, but for those
 * that stand left themselves.
 */
export function placeMarks(marks: readonly Mark[], scale: Scale): PlacedMark[] {
  const end = scale.at(scale.high) + 3;
  const placed: PlacedMark[] = [];
  for (const mark of [...marks].sort((a, b) => b.value - a.value)) {
    const width = textWidth(mark.text);
    const x = scale.at(mark.value);
    const left = x + 4 + width <= end ? x + 4 : x - 4 - width;
    const right = left + width;
    const touches = (row: number): boolean =>
      placed.some(
        (other) =>
          (other.row === row && left < other.right + 8 && right + 8 > other.left) ||
          (other.row > row && scale.at(other.mark.value) > left - 2 && scale.at(other.mark.value) < right + 2),
      );
    let row = 0;
    while (touches(row)) row++;
    placed.push({ mark, row, left, right });
  }
  return placed;
}
