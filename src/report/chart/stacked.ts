/** Rows of bars, each made of parts: what became of all runs, where faults hit, what a recovery's time went to. */
import { AXIS_HEIGHT, bottomAxis } from './axis.js';
import { linearScale } from './scale.js';
import { type Canvas, element, frame, label, textWidth } from './svg.js';

export interface Part {
  readonly value: number;
  /** Class of its colour. */
  readonly class: string;
  /** Written into the part where it fits, such as "64 %"; the table beside the chart has all. */
  readonly text?: string;
}

export interface StackedRow {
  readonly name: string;
  /** The whole, in words, at the end of the name's line. */
  readonly figure: string;
  readonly parts: readonly Part[];
}

export interface StackedOptions {
  readonly title: string;
  readonly description: string;
  readonly axisTitle: string;
  readonly format: (value: number) => string;
  /** End of the axis; the longest row when absent. */
  readonly max?: number;
  readonly rows: readonly StackedRow[];
}

const ROW = 42;
const BAR = 18;
const SIDE = 4;

export function stacked(canvas: Canvas, options: StackedOptions): string {
  const { rows } = options;
  const total = ({ parts }: StackedRow): number => parts.reduce((sum, part) => sum + part.value, 0);
  const max = options.max ?? Math.max(1e-9, ...rows.map(total));
  const scale = linearScale([0, max], [SIDE, canvas.width - SIDE], Math.max(2, Math.floor(canvas.width / 90)));
  const bottom = 4 + rows.length * ROW;
  const axis = bottomAxis({ scale, format: options.format, top: 4, bottom, title: options.axisTitle });
  const drawn = rows.map((row, index) => drawRow(row, 4 + index * ROW));
  return frame(canvas, bottom + AXIS_HEIGHT.titled, options, [axis, ...drawn]);

  function drawRow(row: StackedRow, top: number): string {
    const room = canvas.width - 2 * SIDE - textWidth(row.figure) - 12;
    const text =
      label(SIDE, top + 14, row.name, { class: 'row-name', room }) +
      label(canvas.width - SIDE, top + 14, row.figure, { anchor: 'end', class: 'row-figure' });
    let before = 0;
    const bars = row.parts.map((part) => {
      const from = scale.at(before);
      before += part.value;
      const to = scale.at(before);
      if (to - from <= 0) return '';
      // A thin gap keeps neighbours apart without colour; what is too thin for one is drawn all the same.
      const width = Math.max(1, to - from - 1);
      const bar = element('rect', { class: `fill ${part.class}`, x: from, y: top + 20, width, height: BAR });
      const fits = part.text !== undefined && textWidth(part.text) + 8 <= width;
      return fits
        ? bar +
            label(from + width / 2, top + 33, part.text ?? '', { anchor: 'middle', class: `in-bar on-${part.class}` })
        : bar;
    });
    return text + bars.join('');
  }
}
