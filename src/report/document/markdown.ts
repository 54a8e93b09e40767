/** A report as Markdown: the same tables; figures are left out, since the tables beside them have what they show. */
import { duration } from '../style.js';
import {
  type Block,
  type Inline,
  inlines,
  type Report,
  type Rich,
  type RunEntry,
  type TableBlock,
} from './document.js';

export function markdown(report: Report): string {
  const lines = [`# ${escaped(report.title)}`, '', escaped(report.subtitle), ''];
  for (const section of report.sections) {
    lines.push(`## ${escaped(section.title)}`, '');
    for (const block of section.blocks) lines.push(...blockLines(block));
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

function blockLines(block: Block): string[] {
  switch (block.kind) {
    case 'prose':
      return [rich(block.text), ''];
    case 'notice':
      return [`> **Note:** ${rich(block.text)}`, ''];
    case 'heading':
      return [`### ${escaped(block.text)}`, ''];
    case 'figure':
      return [];
    case 'table':
      return tableLines(block);
    case 'runs':
      return block.groups.flatMap(({ title, runs }) => [`### ${escaped(title)}`, '', ...runs.flatMap(runLines), '']);
  }
}

function tableLines({ caption, columns, rows }: TableBlock): string[] {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [
    `**${escaped(caption)}**`,
    '',
    row(columns.map(({ title }) => escaped(title))),
    row(columns.map(({ align }) => (align === 'right' ? '---:' : '---'))),
    ...rows.map(({ cells }) => row(cells.map((cell) => rich(cell).replaceAll('|', '\\|')))),
    '',
  ];
}

function runLines({ name, end, detail, events }: RunEntry): string[] {
  return [
    `- **${escaped(name)}** ${escaped(end)}; ${escaped(detail)}`,
    ...events.map(
      ({ atMs, title, text }) =>
        `  - ${atMs === undefined ? '' : `+${duration(atMs)} `}${escaped(title)}: ${rich(text)}`,
    ),
  ];
}

const rich = (text: Rich): string => inlines(text).map(inline).join('');

function inline(part: Inline): string {
  if (typeof part === 'string') return escaped(part);
  switch (part.kind) {
    case 'code':
      return `\`${part.text.replaceAll('`', "'")}\``;
    case 'strong':
      return `**${escaped(part.text)}**`;
    case 'anchor':
      return escaped(part.text);
    case 'file':
      return `[${escaped(part.text)}](<${part.href.replace(/[<>\n]/g, encodeURIComponent)}>)`;
    case 'bar':
      return '';
  }
}

/** What Markdown or HTML in it would take for more than text. */
const escaped = (text: string): string =>
  text.replace(/[\\`*_[\]<>#~]/g, (character) => `\\${character}`).replaceAll('\n', ' ');
