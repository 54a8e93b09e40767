/**
 * A report before it is HTML, Markdown or text: sections of paragraphs, tables, figures and lists of runs. What a chart shows stands in a
 * table of the same section too, so the variants without pictures lose nothing.
 */
import type { Canvas } from '../chart/svg.js';

export interface Report {
  readonly title: string;
  readonly subtitle: string;
  readonly sections: readonly Section[];
}

export interface Section {
  /** Unique in the report; what links name. */
  readonly id: string;
  readonly title: string;
  readonly blocks: readonly Block[];
}

export type Block =
  | { readonly kind: 'prose'; readonly text: Rich }
  /** Something that the reader must not miss: a damaged log, runs that do not count. */
  | { readonly kind: 'notice'; readonly text: Rich }
  | { readonly kind: 'heading'; readonly text: string }
  | TableBlock
  | FigureBlock
  | RunsBlock;

export interface TableBlock {
  readonly kind: 'table';
  readonly caption: string;
  readonly columns: readonly TableColumn[];
  readonly rows: readonly TableRow[];
  /** Folded away in HTML: a long list, or the figures of a chart above it. */
  readonly folded?: boolean;
}

export interface TableColumn {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

export interface TableRow {
  readonly cells: readonly Rich[];
  /** Stands out from the others: ours among published ones. */
  readonly strong?: boolean;
}

export interface FigureBlock {
  readonly kind: 'figure';
  readonly id: string;
  readonly caption: string;
  readonly legend: readonly LegendItem[];
  draw(canvas: Canvas): string;
}

export interface LegendItem {
  readonly text: string;
  /** The class that the thing has in the chart. */
  readonly class: string;
  readonly shape: 'box' | 'line' | 'dot';
}

/** Runs that can be looked into one by one. */
export interface RunsBlock {
  readonly kind: 'runs';
  readonly groups: readonly RunGroup[];
}

export interface RunGroup {
  readonly title: string;
  readonly open: boolean;
  readonly runs: readonly RunEntry[];
}

export interface RunEntry {
  readonly id: string;
  /** Such as "run 17". */
  readonly name: string;
  /** What became of it, in a few words, with the class of its colour. */
  readonly end: string;
  readonly class: string;
  /** Where and how long. */
  readonly detail: string;
  readonly strip?: Strip;
  readonly events: readonly RunEvent[];
}

/** A run's times as lengths beside each other, in milliseconds. */
export interface Strip {
  readonly parts: readonly { readonly ms: number; readonly class: string; readonly text: string }[];
}

export interface RunEvent {
  /** Since the injection, in milliseconds; absent where no clock was read. */
  readonly atMs?: number;
  readonly title: string;
  readonly class: string;
  readonly text: Rich;
}

/** Text with the few forms that all variants know. */
export type Rich = Inline | readonly Inline[];

export type Inline =
  | string
  | { readonly kind: 'code'; readonly text: string }
  | { readonly kind: 'strong'; readonly text: string }
  /** To a place in the report: plain text where a variant has no such places. */
  | { readonly kind: 'anchor'; readonly text: string; readonly to: string }
  /** To a file beside the report. */
  | { readonly kind: 'file'; readonly text: string; readonly href: string }
  /** A bar in a table's cell, `share` of its width long; HTML only. */
  | { readonly kind: 'bar'; readonly share: number; readonly class: string };

export const inlines = (rich: Rich): readonly Inline[] =>
  typeof rich === 'string' || 'kind' in rich ? [rich] : (rich as readonly Inline[]);

/** Without its forms; of a file its path. */
export const plain = (rich: Rich): string =>
  inlines(rich)
    .map((part) =>
      typeof part === 'string' ? part : part.kind === 'bar' ? '' : part.kind === 'file' ? part.href : part.text,
    )
    .join('')
    .trim();
