/** A report as plain text for a terminal, a mail or a diff: the same tables, as wide as they need to be. */
import { duration, paint, wrap } from '../style.js';
import { table } from '../table.js';
import { type Block, plain, type Report, type TableBlock } from './document.js';

/** @param width columns for paragraphs and for the last column of a table */
export function plainText(report: Report, width = 100): string {
  const lines = [report.title, '='.repeat(report.title.length), ...wrap(report.subtitle, width), ''];
  for (const section of report.sections) {
    lines.push(section.title, '-'.repeat(section.title.length), '');
    for (const block of section.blocks) lines.push(...blockLines(block, width));
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

function blockLines(block: Block, width: number): string[] {
  switch (block.kind) {
    case 'prose':
      return [...wrap(plain(block.text), width), ''];
    case 'notice':
      return [...wrap(`Note: ${plain(block.text)}`, width), ''];
    case 'heading':
      return [block.text, ''];
    case 'figure':
      return [];
    case 'table':
      return tableLines(block);
    case 'runs':
      return block.groups.flatMap(({ title, runs }) => [
        title,
        ...runs.flatMap(({ name, end, detail, events }) => [
          `  ${name}  ${end}  ${detail}`,
          ...events.map(
            ({ atMs, title: what, text }) =>
              `    ${(atMs === undefined ? '' : `+${duration(atMs)}`).padStart(9)}  ${what}: ${plain(text)}`,
          ),
        ]),
        '',
      ]);
  }
}

function tableLines({ caption, columns, rows }: TableBlock): string[] {
  return [
    `${caption}:`,
    ...table(
      columns,
      rows.map(({ cells }) => cells.map(plain)),
      paint('plain'),
    ).map((line) => `  ${line}`),
    '',
  ];
}
