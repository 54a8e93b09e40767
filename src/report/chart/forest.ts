/**
 * Shares with their intervals, one under the other (a "forest plot"): a dot or a bar for the share, a whisker for the interval. Each row
 * has its name above its line and the figure in words at the end, so it reads the same at any width.
 */
import { AXIS_HEIGHT, bottomAxis } from './axis.js';
import { linearScale } from './scale.js';
import { type Canvas, element, frame, label, number, textWidth } from './svg.js';

export interface ForestRow {
  readonly name: string;
  /** The figure as text, such as "98.6 % [97.7, 99.2]". */
  readonly figure: string;
  /** In 0..1; a row without trials has NaN and shows its name and figure only. */
  readonly share: number;
  readonly low: number;
  readonly high: number;
  /** Class of its colour. */
  readonly class: string;
}

export interface ForestGroup {
  readonly title?: string;
  readonly rows: readonly ForestRow[];
}

export interface ForestOptions {
  readonly title: string;
  readonly description: string;
  readonly axisTitle: string;
  /** In 0..1. A bar begins at 0, so its axis must. */
  readonly domain: readonly [number, number];
  readonly mark: 'dot' | 'bar';
  readonly groups: readonly ForestGroup[];
}

const ROW = 36;
const GROUP_TITLE = 26;
const SIDE = 4;
/** Titles of groups are larger and bold: so many times as wide as other text. */
const BOLDER = 1.25;

export function forest(canvas: Canvas, options: ForestOptions): string {
  const { groups, domain, mark } = options;
  const scale = linearScale(domain, [SIDE, canvas.width - SIDE], Math.max(2, Math.floor(canvas.width / 90)));
  const parts: string[] = [];
  const plotted: string[] = [];
  let y = 4;
  for (const group of groups) {
    if (group.title !== undefined) {
      plotted.push(
        label(SIDE, y + 17, group.title, { class: 'group-title', room: (canvas.width - 2 * SIDE) / BOLDER }),
      );
      y += GROUP_TITLE;
    }
    for (const row of group.rows) {
      plotted.push(drawRow(row, y));
      y += ROW;
    }
    y += 6;
  }
  parts.push(
    bottomAxis({
      scale,
      format: (value) => `${Number((value * 100).toFixed(2))} %`,
      top: 4,
      bottom: y,
      title: options.axisTitle,
    }),
  );
  return frame(canvas, y + AXIS_HEIGHT.titled, options, [...parts, ...plotted]);

  function drawRow(row: ForestRow, top: number): string {
    const figureWidth = textWidth(row.figure);
    const room = canvas.width - 2 * SIDE - figureWidth - 12;
    const text =
      label(SIDE, top + 14, row.name, { class: 'row-name', room }) +
      label(canvas.width - SIDE, top + 14, row.figure, { anchor: 'end', class: 'row-figure' });
    if (!Number.isFinite(row.share)) return text;
    const line = top + 26;
    const [low, high, at] = [scale.at(row.low), scale.at(row.high), scale.at(row.share)];
    const bar =
      mark === 'bar'
        ? element('rect', {
            class: `fill ${row.class}`,
            x: SIDE,
            y: line - 6,
            width: Math.max(0, at - SIDE),
            height: 12,
          })
        : '';
    const d = `M${number(low)} ${line - 4}v8M${number(low)} ${line}H${number(high)}M${number(high)} ${line - 4}v8`;
    const whisker =
      mark === 'bar'
        ? element('path', { class: 'whisker-ground', d }) + element('path', { class: 'whisker', d })
        : element('path', { class: `whisker stroke ${row.class}`, d });
    const dot = mark === 'dot' ? element('circle', { class: `fill dot ${row.class}`, cx: at, cy: line, r: 5 }) : '';
    return text + bar + whisker + dot;
  }
}

/**
 * Where an axis of rates begins: at the ten per cent below the lowest interval, so that near rates can be told apart, and at 0 when that
 * shows no more.
 */
export function rateDomain(lows: readonly number[]): readonly [number, number] {
  const finite = lows.filter(Number.isFinite);
  const lowest = finite.length === 0 ? 0 : Math.min(...finite);
  const low = Math.floor(lowest * 10 - 1e-9) / 10;
  return [low <= 0.3 ? 0 : low, 1];
}
